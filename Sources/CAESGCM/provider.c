// The provider (provider(7)): what OpenSSL calls. It does messages whose IV has 12 bytes and is given; whatever else a
// context is asked for, OpenSSL's own cipher does from then on.
#include "CAESGCM.h"

#if defined(__x86_64__) && defined(__ELF__)
#include "gcm.h"
#include <limits.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <openssl/proverr.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define KEYS_SET "keys-set"
#define NO_TAG SIZE_MAX

struct provider {
    OSSL_LIB_CTX *library;
    int processor_class;
    atomic_size_t keys_set;
};

enum iv_state { IV_NONE, IV_GIVEN, IV_IN_USE, IV_USED };

struct context {
    struct gcm_key key;
    struct gcm_message message;
    struct provider *provider;
    // OpenSSL's own cipher, which does everything as soon as it is there.
    EVP_CIPHER_CTX *openssl;
    size_t key_length, tag_length;
    enum iv_state iv_state;
    int encrypts, has_key;
    uint8_t iv[GCM_IV];
    // What an encryption came to, or what a decryption has to come to.
    uint8_t tag[GCM_TAG];
};

static int refuse(int reason) {
    ERR_raise(ERR_LIB_PROV, reason);
    return 0;
}

// MARK: - Contexts

static void *new_context(void *provider, size_t key_length) {
    struct context *context = aligned_alloc(_Alignof(struct context), sizeof *context);
    if (!context) return NULL;
    memset(context, 0, sizeof *context);
    context->provider = provider;
    context->key_length = key_length;
    context->tag_length = NO_TAG;
    return context;
}

static void *new_context_128(void *provider) { return new_context(provider, 16); }
static void *new_context_256(void *provider) { return new_context(provider, 32); }

static void free_context(void *opaque) {
    struct context *context = opaque;
    if (!context) return;
    EVP_CIPHER_CTX_free(context->openssl);
    OPENSSL_cleanse(context, sizeof *context);
    free(context);
}

static void *copy_context(void *opaque) {
    struct context *context = opaque, *copy = new_context(context->provider, context->key_length);
    if (!copy) return NULL;
    memcpy(copy, context, sizeof *copy);
    if (!context->openssl) return copy;
    copy->openssl = EVP_CIPHER_CTX_new();
    if (copy->openssl && EVP_CIPHER_CTX_copy(copy->openssl, context->openssl) == 1) return copy;
    free_context(copy);
    return NULL;
}

// From here on OpenSSL's own cipher does everything. It gets what it would know had it been asked from the start,
// except that a message that has begun cannot go on: its IV counts as used.
static int hand_over(struct context *context) {
    if (context->openssl) return 1;
    const char *name = context->key_length == 16 ? "AES-128-GCM" : "AES-256-GCM";
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(context->provider->library, name, "provider=default");
    EVP_CIPHER_CTX *openssl = EVP_CIPHER_CTX_new();
    // The first round keys of AES are the key.
    const uint8_t *key = context->has_key ? context->key.round_keys : NULL;
    const uint8_t *iv = context->iv_state != IV_NONE ? context->iv : NULL;
    // OpenSSL is told a tag while it deciphers, and keeps it when the direction changes: a finished message has one.
    int has_tag = context->tag_length != NO_TAG;
    int done = cipher && openssl && EVP_CipherInit_ex2(openssl, cipher, key, iv, !has_tag && context->encrypts, NULL);
    if (done && (context->iv_state == IV_IN_USE || context->iv_state == IV_USED)) {
        // Another length and back: OpenSSL takes no IV twice either.
        done = EVP_CIPHER_CTX_ctrl(openssl, EVP_CTRL_AEAD_SET_IVLEN, GCM_IV + 4, NULL) > 0 &&
               EVP_CIPHER_CTX_ctrl(openssl, EVP_CTRL_AEAD_SET_IVLEN, GCM_IV, NULL) > 0;
    }
    if (done && has_tag) {
        done = EVP_CIPHER_CTX_ctrl(openssl, EVP_CTRL_AEAD_SET_TAG, (int)context->tag_length, context->tag) > 0 &&
               EVP_CipherInit_ex2(openssl, NULL, NULL, NULL, context->encrypts, NULL);
    }
    EVP_CIPHER_free(cipher);
    if (!done) {
        EVP_CIPHER_CTX_free(openssl);
        return 0;
    }
    context->openssl = openssl;
    OPENSSL_cleanse(&context->key, sizeof context->key);
    OPENSSL_cleanse(&context->message, sizeof context->message);
    return 1;
}

// MARK: - Parameters

// TLS asks for one thing at a time, several times for each record: a search for all there is would cost more than AES.
static int is_only(const OSSL_PARAM parameters[], const char *name) {
    return parameters && parameters[0].key && !parameters[1].key && strcmp(parameters[0].key, name) == 0;
}

static int set_tag(struct context *context, const OSSL_PARAM *parameter) {
    if (context->encrypts) return refuse(PROV_R_TAG_NOT_NEEDED);
    if (parameter->data_type != OSSL_PARAM_OCTET_STRING || !parameter->data) {
        return refuse(PROV_R_FAILED_TO_GET_PARAMETER);
    }
    if (parameter->data_size == 0 || parameter->data_size > GCM_TAG) return refuse(PROV_R_INVALID_TAG_LENGTH);
    memcpy(context->tag, parameter->data, parameter->data_size);
    context->tag_length = parameter->data_size;
    return 1;
}

static int set_parameters(void *opaque, const OSSL_PARAM parameters[]) {
    struct context *context = opaque;
    if (!parameters) return 1;
    if (context->openssl) return EVP_CIPHER_CTX_set_params(context->openssl, parameters);
    if (is_only(parameters, OSSL_CIPHER_PARAM_AEAD_TAG)) return set_tag(context, parameters);
    // TLS 1.2 and IVs that the cipher makes.
    static const char *const others[] = {
        OSSL_CIPHER_PARAM_AEAD_TLS1_AAD, OSSL_CIPHER_PARAM_AEAD_TLS1_IV_FIXED, OSSL_CIPHER_PARAM_AEAD_TLS1_SET_IV_INV};
    int is_for_openssl = 0;
    for (size_t index = 0; index < sizeof others / sizeof *others; index++) {
        if (OSSL_PARAM_locate_const(parameters, others[index])) is_for_openssl = 1;
    }
    const OSSL_PARAM *parameter = OSSL_PARAM_locate_const(parameters, OSSL_CIPHER_PARAM_IVLEN);
    if (parameter) {
        size_t length;
        if (!OSSL_PARAM_get_size_t(parameter, &length)) return refuse(PROV_R_FAILED_TO_GET_PARAMETER);
        // What OpenSSL's own refuses, more than 1,024 bits too, must not cost the message that is under way.
        if (length == 0 || length > 1024 / 8) return refuse(PROV_R_INVALID_IV_LENGTH);
        if (length != GCM_IV) is_for_openssl = 1;
    }
    if (is_for_openssl) return hand_over(context) && EVP_CIPHER_CTX_set_params(context->openssl, parameters);
    parameter = OSSL_PARAM_locate_const(parameters, OSSL_CIPHER_PARAM_AEAD_TAG);
    return !parameter || set_tag(context, parameter);
}

static int set_iv_parameter(OSSL_PARAM *parameter, struct context *context) {
    if (!parameter) return 1;
    if (parameter->data_type == OSSL_PARAM_OCTET_PTR) return OSSL_PARAM_set_octet_ptr(parameter, context->iv, GCM_IV);
    return OSSL_PARAM_set_octet_string(parameter, context->iv, GCM_IV);
}

static int get_tag(const struct context *context, OSSL_PARAM *parameter) {
    if (!context->encrypts || context->tag_length == NO_TAG) return refuse(PROV_R_TAG_NOT_SET);
    if (parameter->data_size == 0 || parameter->data_size > GCM_TAG) return refuse(PROV_R_INVALID_TAG_LENGTH);
    if (OSSL_PARAM_set_octet_string(parameter, context->tag, parameter->data_size)) return 1;
    return refuse(PROV_R_FAILED_TO_SET_PARAMETER);
}

static int get_size(OSSL_PARAM *parameter, size_t value) {
    return OSSL_PARAM_set_size_t(parameter, value) || refuse(PROV_R_FAILED_TO_SET_PARAMETER);
}

static int get_parameters(void *opaque, OSSL_PARAM parameters[]) {
    struct context *context = opaque;
    if (!context->openssl) {
        if (is_only(parameters, OSSL_CIPHER_PARAM_IVLEN)) return get_size(parameters, GCM_IV);
        if (is_only(parameters, OSSL_CIPHER_PARAM_AEAD_TAG)) return get_tag(context, parameters);
    }
    OSSL_PARAM *iv = OSSL_PARAM_locate(parameters, OSSL_CIPHER_PARAM_IV);
    OSSL_PARAM *updated_iv = OSSL_PARAM_locate(parameters, OSSL_CIPHER_PARAM_UPDATED_IV);
    if (!context->openssl && (iv || updated_iv) && context->iv_state == IV_NONE) {
        // To encrypt without an IV is to have one made.
        if (!context->encrypts || !hand_over(context)) return 0;
    }
    if (context->openssl) return EVP_CIPHER_CTX_get_params(context->openssl, parameters);
    if (!set_iv_parameter(iv, context) || !set_iv_parameter(updated_iv, context)) {
        return refuse(PROV_R_FAILED_TO_SET_PARAMETER);
    }
    const struct { const char *name; size_t value; } sizes[] = {
        {OSSL_CIPHER_PARAM_IVLEN, GCM_IV},
        {OSSL_CIPHER_PARAM_KEYLEN, context->key_length},
        {OSSL_CIPHER_PARAM_AEAD_TAGLEN, context->tag_length == NO_TAG ? GCM_TAG : context->tag_length},
        {OSSL_CIPHER_PARAM_AEAD_TLS1_AAD_PAD, 0},
    };
    for (size_t index = 0; index < sizeof sizes / sizeof *sizes; index++) {
        OSSL_PARAM *parameter = OSSL_PARAM_locate(parameters, sizes[index].name);
        if (parameter && !get_size(parameter, sizes[index].value)) return 0;
    }
    OSSL_PARAM *tag = OSSL_PARAM_locate(parameters, OSSL_CIPHER_PARAM_AEAD_TAG);
    if (tag && !get_tag(context, tag)) return 0;
    // Nobody has told the fixed part of an IV; who has is with OpenSSL's own cipher.
    return !OSSL_PARAM_locate(parameters, OSSL_CIPHER_PARAM_AEAD_TLS1_GET_IV_GEN);
}

static int get_cipher_parameters(OSSL_PARAM parameters[], size_t key_length) {
    const struct { const char *name; int is_size; size_t value; } values[] = {
        {OSSL_CIPHER_PARAM_MODE, 0, EVP_CIPH_GCM_MODE},
        {OSSL_CIPHER_PARAM_KEYLEN, 1, key_length},
        {OSSL_CIPHER_PARAM_IVLEN, 1, GCM_IV},
        // Counter mode makes a stream cipher of AES.
        {OSSL_CIPHER_PARAM_BLOCK_SIZE, 1, 1},
        {OSSL_CIPHER_PARAM_AEAD, 0, 1},
        {OSSL_CIPHER_PARAM_CUSTOM_IV, 0, 1},
        {OSSL_CIPHER_PARAM_CTS, 0, 0},
        {OSSL_CIPHER_PARAM_TLS1_MULTIBLOCK, 0, 0},
        {OSSL_CIPHER_PARAM_HAS_RAND_KEY, 0, 0},
    };
    for (size_t index = 0; index < sizeof values / sizeof *values; index++) {
        OSSL_PARAM *parameter = OSSL_PARAM_locate(parameters, values[index].name);
        if (!parameter) continue;
        int done = values[index].is_size ? OSSL_PARAM_set_size_t(parameter, values[index].value)
                   : parameter->data_type == OSSL_PARAM_UNSIGNED_INTEGER
                       ? OSSL_PARAM_set_uint(parameter, (unsigned)values[index].value)
                       : OSSL_PARAM_set_int(parameter, (int)values[index].value);
        if (!done) return refuse(PROV_R_FAILED_TO_SET_PARAMETER);
    }
    return 1;
}

static int get_cipher_parameters_128(OSSL_PARAM parameters[]) { return get_cipher_parameters(parameters, 16); }
static int get_cipher_parameters_256(OSSL_PARAM parameters[]) { return get_cipher_parameters(parameters, 32); }

static const OSSL_PARAM *gettable_parameters(void *context, void *provider) {
    (void)context, (void)provider;
    static const OSSL_PARAM list[] = {
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_KEYLEN, NULL),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_IVLEN, NULL),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_AEAD_TAGLEN, NULL),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_IV, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_UPDATED_IV, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, NULL, 0),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_AEAD_TLS1_AAD_PAD, NULL),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TLS1_GET_IV_GEN, NULL, 0),
        OSSL_PARAM_END};
    return list;
}

static const OSSL_PARAM *settable_parameters(void *context, void *provider) {
    (void)context, (void)provider;
    static const OSSL_PARAM list[] = {
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_IVLEN, NULL),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TLS1_AAD, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TLS1_IV_FIXED, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TLS1_SET_IV_INV, NULL, 0),
        OSSL_PARAM_END};
    return list;
}

// MARK: - Messages

static int start(
    struct context *context, const uint8_t *key, size_t key_length, const uint8_t *iv, size_t iv_length,
    const OSSL_PARAM parameters[], int encrypts
) {
    if (key && key_length != context->key_length) return refuse(PROV_R_INVALID_KEY_LENGTH);
    if (iv && iv_length != GCM_IV && !context->openssl) {
        // Who has told the length of the IV before is with OpenSSL already.
        return refuse(PROV_R_INVALID_IV_LENGTH);
    }
    if (context->openssl) return EVP_CipherInit_ex2(context->openssl, NULL, key, iv, encrypts, parameters);
    context->encrypts = encrypts;
    if (key) {
        gcm_set_key(&context->key, context->provider->processor_class, key, key_length);
        context->has_key = 1;
        atomic_fetch_add_explicit(&context->provider->keys_set, 1, memory_order_relaxed);
        // What was begun with another key cannot go on.
        if (context->iv_state == IV_IN_USE) context->iv_state = IV_USED;
    }
    if (iv) {
        memcpy(context->iv, iv, GCM_IV);
        context->iv_state = IV_GIVEN;
    }
    return set_parameters(context, parameters);
}

static int start_encryption(
    void *context, const unsigned char *key, size_t key_length, const unsigned char *iv, size_t iv_length,
    const OSSL_PARAM parameters[]
) {
    return start(context, key, key_length, iv, iv_length, parameters, 1);
}

static int start_decryption(
    void *context, const unsigned char *key, size_t key_length, const unsigned char *iv, size_t iv_length,
    const OSSL_PARAM parameters[]
) {
    return start(context, key, key_length, iv, iv_length, parameters, 0);
}

// Whether a message has begun, or begins here. An encryption without an IV is handed over: OpenSSL makes one.
static int is_under_way(struct context *context) {
    if (context->iv_state == IV_IN_USE) return 1;
    if (!context->has_key || context->iv_state != IV_GIVEN) return 0;
    gcm_begin(&context->key, &context->message, context->iv);
    context->iv_state = IV_IN_USE;
    return 1;
}

static int wants_iv_made(const struct context *context) {
    return context->iv_state == IV_NONE && context->has_key && context->encrypts;
}

// Additional data where `out` is NULL, as OpenSSL has it.
static int update(
    void *opaque, unsigned char *out, size_t *written, size_t size, const unsigned char *in, size_t length
) {
    struct context *context = opaque;
    *written = 0;
    if (length == 0) return 1;
    if (size < length) return refuse(PROV_R_OUTPUT_BUFFER_TOO_SMALL);
    if (!context->openssl && wants_iv_made(context) && !hand_over(context)) return 0;
    if (context->openssl) {
        int count = 0;
        if (length > INT_MAX || !EVP_CipherUpdate(context->openssl, out, &count, in, (int)length)) return 0;
        *written = (size_t)count;
        return 1;
    }
    if (!is_under_way(context)) return refuse(PROV_R_CIPHER_OPERATION_FAILED);
    int done = !out ? gcm_add(&context->key, &context->message, in, length)
               : context->encrypts ? gcm_encrypt(&context->key, &context->message, in, out, length)
                                   : gcm_decrypt(&context->key, &context->message, in, out, length);
    if (!done) return refuse(PROV_R_CIPHER_OPERATION_FAILED);
    *written = length;
    return 1;
}

static int finish(void *opaque, unsigned char *out, size_t *written, size_t size) {
    struct context *context = opaque;
    (void)size;
    *written = 0;
    if (!context->openssl && wants_iv_made(context) && !hand_over(context)) return 0;
    if (context->openssl) {
        int count = 0;
        return EVP_CipherFinal_ex(context->openssl, out, &count);
    }
    if (!is_under_way(context)) return 0;
    if (!context->encrypts && context->tag_length == NO_TAG) return refuse(PROV_R_TAG_NOT_SET);
    uint8_t tag[GCM_TAG];
    gcm_finish(&context->key, &context->message, tag);
    context->iv_state = IV_USED;
    if (context->encrypts) {
        memcpy(context->tag, tag, GCM_TAG);
        context->tag_length = GCM_TAG;
        return 1;
    }
    int same = CRYPTO_memcmp(tag, context->tag, context->tag_length) == 0;
    OPENSSL_cleanse(tag, sizeof tag);
    return same;
}

// EVP_Cipher: an update, or the end where there is no input.
static int cipher(
    void *opaque, unsigned char *out, size_t *written, size_t size, const unsigned char *in, size_t length
) {
    struct context *context = opaque;
    if (context->openssl) {
        if (size < length || length > INT_MAX) return refuse(PROV_R_OUTPUT_BUFFER_TOO_SMALL);
        int count = EVP_Cipher(context->openssl, out, in, (unsigned)length);
        *written = count < 0 ? 0 : (size_t)count;
        return count >= 0;
    }
    return in ? update(opaque, out, written, size, in, length) : finish(opaque, out, written, size);
}

// MARK: - Tables

typedef void (*entry)(void);

#define CIPHER(BITS)                                                                                                \
    static const OSSL_DISPATCH cipher_##BITS[] = {                                                                  \
        {OSSL_FUNC_CIPHER_NEWCTX, (entry)new_context_##BITS},                                                       \
        {OSSL_FUNC_CIPHER_FREECTX, (entry)free_context},                                                            \
        {OSSL_FUNC_CIPHER_DUPCTX, (entry)copy_context},                                                             \
        {OSSL_FUNC_CIPHER_ENCRYPT_INIT, (entry)start_encryption},                                                   \
        {OSSL_FUNC_CIPHER_DECRYPT_INIT, (entry)start_decryption},                                                   \
        {OSSL_FUNC_CIPHER_UPDATE, (entry)update},                                                                   \
        {OSSL_FUNC_CIPHER_FINAL, (entry)finish},                                                                    \
        {OSSL_FUNC_CIPHER_CIPHER, (entry)cipher},                                                                   \
        {OSSL_FUNC_CIPHER_GET_PARAMS, (entry)get_cipher_parameters_##BITS},                                         \
        {OSSL_FUNC_CIPHER_GET_CTX_PARAMS, (entry)get_parameters},                                                   \
        {OSSL_FUNC_CIPHER_SET_CTX_PARAMS, (entry)set_parameters},                                                   \
        {OSSL_FUNC_CIPHER_GETTABLE_CTX_PARAMS, (entry)gettable_parameters},                                         \
        {OSSL_FUNC_CIPHER_SETTABLE_CTX_PARAMS, (entry)settable_parameters},                                         \
        {0, NULL}};
CIPHER(128)
CIPHER(256)

// Names as OpenSSL's own providers have them.
static const OSSL_ALGORITHM ciphers[] = {
    {"AES-128-GCM:id-aes128-GCM:2.16.840.1.101.3.4.1.6", "provider=" CAESGCM_PROVIDER, cipher_128, NULL},
    {"AES-256-GCM:id-aes256-GCM:2.16.840.1.101.3.4.1.46", "provider=" CAESGCM_PROVIDER, cipher_256, NULL},
    {NULL, NULL, NULL, NULL}};

static const OSSL_ALGORITHM *query(void *provider, int operation, int *no_cache) {
    (void)provider;
    *no_cache = 0;
    return operation == OSSL_OP_CIPHER ? ciphers : NULL;
}

static int get_provider_parameters(void *opaque, OSSL_PARAM parameters[]) {
    struct provider *provider = opaque;
    OSSL_PARAM *keys_set = OSSL_PARAM_locate(parameters, KEYS_SET);
    return !keys_set || OSSL_PARAM_set_size_t(keys_set, atomic_load(&provider->keys_set));
}

static void tear_down(void *provider) { free(provider); }

static const OSSL_DISPATCH provider_table[] = {
    {OSSL_FUNC_PROVIDER_QUERY_OPERATION, (entry)query},
    {OSSL_FUNC_PROVIDER_GET_PARAMS, (entry)get_provider_parameters},
    {OSSL_FUNC_PROVIDER_TEARDOWN, (entry)tear_down},
    {0, NULL}};

static int set_up(
    const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *core, const OSSL_DISPATCH **table, void **opaque,
    int processor_class
) {
    struct provider *provider = calloc(1, sizeof *provider);
    if (!provider) return 0;
    provider->processor_class = processor_class;
    for (; core->function_id; core++) {
        // Built in, so that the core's library context is OpenSSL's.
        if (core->function_id == OSSL_FUNC_CORE_GET_LIBCTX) {
            provider->library = (OSSL_LIB_CTX *)OSSL_FUNC_core_get_libctx(core)(handle);
        }
    }
    *table = provider_table;
    *opaque = provider;
    return 1;
}

static int set_up_avx2(
    const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *core, const OSSL_DISPATCH **table, void **opaque
) {
    return set_up(handle, core, table, opaque, CAESGCM_AVX2);
}

static int set_up_avx512(
    const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *core, const OSSL_DISPATCH **table, void **opaque
) {
    return set_up(handle, core, table, opaque, CAESGCM_AVX512);
}

OSSL_PROVIDER *caesgcm_load(OSSL_LIB_CTX *library, int processor_class) {
    if (!library || !caesgcm_self_test(processor_class)) return NULL;
    OSSL_provider_init_fn *function = processor_class == CAESGCM_AVX512 ? set_up_avx512 : set_up_avx2;
    if (!OSSL_PROVIDER_load(library, "default") || !OSSL_PROVIDER_add_builtin(library, CAESGCM_PROVIDER, function)) {
        return NULL;
    }
    OSSL_PROVIDER *provider = OSSL_PROVIDER_load(library, CAESGCM_PROVIDER);
    // Only a preference: what this provider does not have comes from OpenSSL's.
    if (!provider || !EVP_set_default_properties(library, "?provider=" CAESGCM_PROVIDER)) return NULL;
    return provider;
}

size_t caesgcm_keys_set(const OSSL_PROVIDER *provider) {
    size_t count = 0;
    OSSL_PARAM parameters[] = {OSSL_PARAM_construct_size_t(KEYS_SET, &count), OSSL_PARAM_construct_end()};
    return OSSL_PROVIDER_get_params(provider, parameters) ? count : 0;
}

#else

int caesgcm_self_test(int processor_class) {
    (void)processor_class;
    return 0;
}

struct ossl_provider_st *caesgcm_load(struct ossl_lib_ctx_st *context, int processor_class) {
    (void)context, (void)processor_class;
    return NULL;
}

size_t caesgcm_keys_set(const struct ossl_provider_st *provider) {
    (void)provider;
    return 0;
}

#endif
