#include "gcm.h"

#if defined(__x86_64__) && defined(__ELF__)
#include <openssl/crypto.h>
#include <string.h>

static uint64_t load_64(const uint8_t *bytes) {
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return __builtin_bswap64(value);
}

// Adds (exclusive or) a number to 8 bytes, most significant first.
static void add_64(uint8_t *bytes, uint64_t value) {
    uint64_t sum = __builtin_bswap64(load_64(bytes) ^ value);
    memcpy(bytes, &sum, sizeof sum);
}

static void count_one(uint8_t counter[GCM_BLOCK]) {
    uint32_t value;
    memcpy(&value, counter + GCM_IV, sizeof value);
    value = __builtin_bswap32(__builtin_bswap32(value) + 1);
    memcpy(counter + GCM_IV, &value, sizeof value);
}

void gcm_set_key(struct gcm_key *key, int processor_class, const uint8_t *bytes, size_t length) {
    key->processor_class = processor_class;
    gcm_expand(key, bytes, length);
}

void gcm_begin(const struct gcm_key *key, struct gcm_message *message, const uint8_t iv[GCM_IV]) {
    memset(message, 0, sizeof *message);
    memcpy(message->counter, iv, GCM_IV);
    message->counter[15] = 1;
    gcm_encrypt_block(key, message->counter, message->mask);
    message->counter[15] = 2;
}

int gcm_add(const struct gcm_key *key, struct gcm_message *message, const uint8_t *data, size_t length) {
    const uint64_t limit = UINT64_C(1) << 61;
    if (message->length != 0 || length > limit - message->additional_length) return 0;
    message->additional_length += length;
    unsigned rest = message->additional_rest;
    while (rest != 0 && length != 0) {
        message->hash[rest] ^= *data++;
        length--;
        rest = (rest + 1) % GCM_BLOCK;
        if (rest == 0) gcm_multiply(key, message->hash);
    }
    size_t blocks = length & ~(size_t)15;
    gcm_hash(key, message->hash, data, blocks / GCM_BLOCK);
    for (size_t index = blocks; index < length; index++) message->hash[rest++] ^= data[index];
    message->additional_rest = rest;
    return 1;
}

// The two directions differ in what is hashed, which is always the ciphertext.
static inline __attribute__((always_inline)) int update(
    const struct gcm_key *key, struct gcm_message *message, const uint8_t *in, uint8_t *out, size_t length, int encrypts
) {
    // SP 800-38D, section 5.2.1.1: the counter never comes back to where it was.
    const uint64_t limit = (UINT64_C(1) << 36) - 32;
    if (length > limit - message->length) return 0;
    if (length == 0) return 1;
    message->length += length;
    if (message->additional_rest != 0) {
        gcm_multiply(key, message->hash);
        message->additional_rest = 0;
    }
    unsigned rest = message->rest;
    while (rest != 0 && length != 0) {
        uint8_t byte = *in++, other = byte ^ message->keystream[rest];
        *out++ = other;
        message->hash[rest] ^= encrypts ? other : byte;
        length--;
        rest = (rest + 1) % GCM_BLOCK;
        if (rest == 0) gcm_multiply(key, message->hash);
    }
    size_t blocks = length & ~(size_t)15;
    if (blocks != 0) gcm_cipher(key, message->counter, message->hash, in, out, blocks / GCM_BLOCK, encrypts);
    if (blocks != length) {
        gcm_encrypt_block(key, message->counter, message->keystream);
        count_one(message->counter);
        for (size_t index = blocks; index < length; index++) {
            uint8_t byte = in[index], other = byte ^ message->keystream[rest];
            out[index] = other;
            message->hash[rest++] ^= encrypts ? other : byte;
        }
    }
    message->rest = rest;
    return 1;
}

int gcm_encrypt(
    const struct gcm_key *key, struct gcm_message *message, const uint8_t *in, uint8_t *out, size_t length
) {
    return update(key, message, in, out, length, 1);
}

int gcm_decrypt(
    const struct gcm_key *key, struct gcm_message *message, const uint8_t *in, uint8_t *out, size_t length
) {
    return update(key, message, in, out, length, 0);
}

void gcm_finish(const struct gcm_key *key, struct gcm_message *message, uint8_t tag[GCM_TAG]) {
    if (message->rest != 0 || message->additional_rest != 0) gcm_multiply(key, message->hash);
    add_64(message->hash, message->additional_length << 3);
    add_64(message->hash + 8, message->length << 3);
    gcm_multiply(key, message->hash);
    for (int index = 0; index < GCM_TAG; index++) tag[index] = message->hash[index] ^ message->mask[index];
    OPENSSL_cleanse(message, sizeof *message);
}

#endif
