// OpenSSL's headers, plus what Swift cannot import from them: control macros, typed stacks and variadics.
#ifndef COPENSSL_SHIM_H
#define COPENSSL_SHIM_H

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/conf.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/provider.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

// X.509: stacks are macros over typed opaque structures.
static inline int copenssl_sk_X509_num(const STACK_OF(X509) *stack) { return sk_X509_num(stack); }
static inline X509 *copenssl_sk_X509_value(const STACK_OF(X509) *stack, int index) {
    return sk_X509_value(stack, index);
}
static inline STACK_OF(X509) *copenssl_sk_X509_new(void) { return sk_X509_new_null(); }
static inline int copenssl_sk_X509_push(STACK_OF(X509) *stack, X509 *certificate) {
    return sk_X509_push(stack, certificate);
}
// Frees the stack, not the certificates in it.
static inline void copenssl_sk_X509_free(STACK_OF(X509) *stack) { sk_X509_free(stack); }

static inline int copenssl_sk_GENERAL_NAME_num(const GENERAL_NAMES *names) { return sk_GENERAL_NAME_num(names); }
static inline GENERAL_NAME *copenssl_sk_GENERAL_NAME_value(const GENERAL_NAMES *names, int index) {
    return sk_GENERAL_NAME_value(names, index);
}
static inline GENERAL_NAMES *copenssl_sk_GENERAL_NAME_new(void) { return sk_GENERAL_NAME_new_null(); }
static inline int copenssl_sk_GENERAL_NAME_push(GENERAL_NAMES *names, GENERAL_NAME *name) {
    return sk_GENERAL_NAME_push(names, name);
}

// Revocation lists (RFC 5280 §5).
static inline int copenssl_sk_X509_REVOKED_num(const STACK_OF(X509_REVOKED) *stack) { return sk_X509_REVOKED_num(stack); }
static inline X509_REVOKED *copenssl_sk_X509_REVOKED_value(const STACK_OF(X509_REVOKED) *stack, int index) {
    return sk_X509_REVOKED_value(stack, index);
}

static inline STACK_OF(X509_EXTENSION) *copenssl_sk_X509_EXTENSION_new(void) { return sk_X509_EXTENSION_new_null(); }
static inline int copenssl_sk_X509_EXTENSION_push(STACK_OF(X509_EXTENSION) *extensions, X509_EXTENSION *extension) {
    return sk_X509_EXTENSION_push(extensions, extension);
}
// Frees the extensions too.
static inline void copenssl_sk_X509_EXTENSION_pop_free(STACK_OF(X509_EXTENSION) *extensions) {
    sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
}
static inline X509_EXTENSION *copenssl_sk_X509_EXTENSION_find(STACK_OF(X509_EXTENSION) *extensions, int nid) {
    int index = X509v3_get_ext_by_NID(extensions, nid, -1);
    return index < 0 ? NULL : X509v3_get_ext(extensions, index);
}

// A macro of masks that Swift does not evaluate.
static inline unsigned long copenssl_XN_FLAG_RFC2253(void) { return XN_FLAG_RFC2253; }

// A new key on a named curve; EVP_EC_gen is a macro over a variadic function.
static inline EVP_PKEY *copenssl_EVP_EC_gen(const char *curve) { return EVP_EC_gen(curve); }
static inline long copenssl_BIO_get_mem_data(BIO *bio, char **data) { return BIO_get_mem_data(bio, data); }

// TLS: control macros and option bits, under the names OpenSSL documents.
static inline int copenssl_SSL_CTX_set_min_proto_version(SSL_CTX *context, int version) {
    return (int)SSL_CTX_set_min_proto_version(context, version);
}
static inline int copenssl_SSL_CTX_set_max_proto_version(SSL_CTX *context, int version) {
    return (int)SSL_CTX_set_max_proto_version(context, version);
}
static inline int copenssl_SSL_CTX_set1_groups_list(SSL_CTX *context, const char *list) {
    return (int)SSL_CTX_set1_groups_list(context, (char *)list);
}
static inline int copenssl_SSL_CTX_add1_chain_cert(SSL_CTX *context, X509 *certificate) {
    return (int)SSL_CTX_add1_chain_cert(context, certificate);
}
static inline void copenssl_SSL_CTX_set_session_cache_mode(SSL_CTX *context, long mode) {
    (void)SSL_CTX_set_session_cache_mode(context, mode);
}
static inline void copenssl_SSL_CTX_set_mode(SSL_CTX *context, uint32_t mode) { (void)SSL_CTX_set_mode(context, mode); }
// The callback that a server's SNI is told to (RFC 6066 §3).
static inline void copenssl_SSL_CTX_set_tlsext_servername_callback(SSL_CTX *context, int (*callback)(SSL *, int *, void *)) {
    (void)SSL_CTX_set_tlsext_servername_callback(context, callback);
}
static inline int copenssl_SSL_set_tlsext_host_name(SSL *ssl, const char *name) {
    return (int)SSL_set_tlsext_host_name(ssl, (char *)name);
}
// No tickets, no compression, no renegotiation; the server's order of ciphers, but ChaCha20 for a client that prefers it.
static inline uint64_t copenssl_SSL_options(void) {
    return SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE |
           SSL_OP_PRIORITIZE_CHACHA;
}

// Whether this processor encrypts AES in hardware; without that, ChaCha20 is several times faster.
#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
static inline int copenssl_cpu_has_aes(void) {
    unsigned int eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & (1u << 25)) != 0;
}
#elif defined(__linux__)
#include <sys/auxv.h>
static inline int copenssl_cpu_has_aes(void) {
#if defined(__aarch64__)
    return (getauxval(AT_HWCAP) & (1ul << 3)) != 0;  // HWCAP_AES
#elif defined(__arm__)
    return (getauxval(AT_HWCAP2) & 1ul) != 0;  // HWCAP2_AES
#else
    return 0;
#endif
}
#else
static inline int copenssl_cpu_has_aes(void) { return 0; }
#endif

#endif
