// AES and GHASH on whole blocks, which messages (gcm.h) are made of.
#ifndef CAESGCM_KERNEL_H
#define CAESGCM_KERNEL_H

#include "CAESGCM.h"
#include <stddef.h>
#include <stdint.h>

#define GCM_BLOCK 16
// Blocks that are worked on at once.
#define GCM_CHUNK 16

// An expanded key.
struct gcm_key {
    // Powers of the hash key, the highest first; as `gcm_hash` wants them, each with its bytes reversed and times x.
    _Alignas(64) uint8_t powers[GCM_CHUNK * GCM_BLOCK];
    uint8_t round_keys[15 * GCM_BLOCK];
    unsigned rounds;
    int processor_class;
};

// `length` is 16 or 32.
void gcm_expand(struct gcm_key *key, const uint8_t *bytes, size_t length);
void gcm_encrypt_block(const struct gcm_key *key, const uint8_t in[GCM_BLOCK], uint8_t out[GCM_BLOCK]);
// Adds whole blocks to the hash.
void gcm_hash(const struct gcm_key *key, uint8_t hash[GCM_BLOCK], const uint8_t *data, size_t blocks);
// Multiplies the hash by the hash key: its last block is complete.
void gcm_multiply(const struct gcm_key *key, uint8_t hash[GCM_BLOCK]);
// Whole blocks, from `counter` on, which is moved on; the ciphertext, whichever of the two it is, is hashed. `in` and
// `out` are the same or do not overlap.
void gcm_cipher(
    const struct gcm_key *key, uint8_t counter[GCM_BLOCK], uint8_t hash[GCM_BLOCK], const uint8_t *in, uint8_t *out,
    size_t blocks, int encrypts);

#endif
