// AES-128-GCM and AES-256-GCM with VAES and VPCLMULQDQ, as an OpenSSL provider. docs/dependencies.md says why.
#ifndef CAESGCM_H
#define CAESGCM_H

#include <stddef.h>

struct ossl_lib_ctx_st;
struct ossl_provider_st;

// What a processor has, best last.
enum {
    CAESGCM_NONE = 0,
    // VAES and VPCLMULQDQ on registers of 256 bits.
    CAESGCM_AVX2 = 1,
    // The same on registers of 512 bits.
    CAESGCM_AVX512 = 2,
};

#define CAESGCM_PROVIDER "bootstrap-aes-gcm"

// The best that this processor and its operating system have, less what `mask` hides: the value of OPENSSL_ia32cap, or
// NULL. AVX-512 counts only where 512 bits do not slow the clock down.
int caesgcm_processor(const char *mask);

// Whether OpenSSL 3.1 and later have code of their own for this processor (AVX-512 with VAES), with the same mask.
int caesgcm_openssl_has_avx512(const char *mask);

// Whether this class gives the known answers. To be asked only where the processor has it.
int caesgcm_self_test(int processor_class);

// Loads OpenSSL's default provider and ours, in this order, into `context`, which must be nobody else's, and has ours
// preferred. NULL where that fails or the self-test does: the context is then of no use.
struct ossl_provider_st *caesgcm_load(struct ossl_lib_ctx_st *context, int processor_class);

// How many keys the provider has been given since it was loaded.
size_t caesgcm_keys_set(const struct ossl_provider_st *provider);

#endif
