// AES-GCM for IVs of 12 bytes (NIST SP 800-38D), a message at a time, in pieces of any length.
#ifndef CAESGCM_GCM_H
#define CAESGCM_GCM_H

#if defined(__x86_64__) && defined(__ELF__)
#include "kernel.h"

#define GCM_IV 12
#define GCM_TAG 16
#define GCM_MAX_KEY 32

// A message on its way.
struct gcm_message {
    // The counter of the next block, its last 4 bytes counting.
    uint8_t counter[GCM_BLOCK];
    // GHASH so far; bytes of an unfinished block are added already.
    uint8_t hash[GCM_BLOCK];
    // The tag's mask: the block of counter 1.
    uint8_t mask[GCM_BLOCK];
    // The key stream of the block that is not finished.
    uint8_t keystream[GCM_BLOCK];
    uint64_t additional_length, length;
    // Bytes of an unfinished block of additional data, or of the message.
    unsigned additional_rest, rest;
};

void gcm_set_key(struct gcm_key *key, int processor_class, const uint8_t *bytes, size_t length);

void gcm_begin(const struct gcm_key *key, struct gcm_message *message, const uint8_t iv[GCM_IV]);
// 0 after the first byte of the message, or past the limit of the mode.
int gcm_add(const struct gcm_key *key, struct gcm_message *message, const uint8_t *data, size_t length);
// `in` and `out` are the same or do not overlap. 0 past the limit of the mode; nothing is written then.
int gcm_encrypt(const struct gcm_key *key, struct gcm_message *message, const uint8_t *in, uint8_t *out, size_t length);
int gcm_decrypt(const struct gcm_key *key, struct gcm_message *message, const uint8_t *in, uint8_t *out, size_t length);
// The message is over.
void gcm_finish(const struct gcm_key *key, struct gcm_message *message, uint8_t tag[GCM_TAG]);

#endif
#endif
