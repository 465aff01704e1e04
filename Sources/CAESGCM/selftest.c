// Known answers: nothing is encrypted for anybody before they are right.
#include "CAESGCM.h"

#if defined(__x86_64__) && defined(__ELF__)
#include "gcm.h"
#include <string.h>

#define LENGTH 1003
#define ADDITIONAL 37

// By Python's `cryptography`: key byte i is 3i + 1, IV byte i is 100 + i, additional byte i is i, message byte i is
// 7i + i/256. The tag vouches for all of the ciphertext.
static const struct {
    size_t key_length;
    uint8_t first_block[GCM_BLOCK], tag[GCM_TAG];
} answers[] = {
    {16,
     {0xC3, 0x86, 0x90, 0x46, 0xB4, 0x87, 0xE6, 0x81, 0xD3, 0xB7, 0xD8, 0xFA, 0xFE, 0xCD, 0x2C, 0x42},
     {0xAF, 0xCA, 0xB7, 0x6E, 0x46, 0x22, 0x4D, 0x6B, 0xF9, 0xB5, 0x86, 0x19, 0x71, 0x11, 0x67, 0x89}},
    {32,
     {0xAA, 0x06, 0x0E, 0x59, 0xFF, 0xEF, 0xBA, 0x85, 0xD8, 0x49, 0x1D, 0x29, 0xB1, 0x4A, 0xEF, 0x29},
     {0x93, 0xA0, 0xA4, 0x07, 0x1E, 0xEE, 0x5C, 0x22, 0x2B, 0xF3, 0x09, 0xEE, 0x3E, 0x79, 0x68, 0xFA}},
};

// Forth and back in place, in two pieces that end inside of a block.
static int is_right(
    int processor_class, size_t key_length, const uint8_t *first_block, const uint8_t *tag, size_t split
) {
    uint8_t bytes[GCM_MAX_KEY], iv[GCM_IV], additional[ADDITIONAL], plain[LENGTH], data[LENGTH], result[GCM_TAG];
    for (size_t index = 0; index < key_length; index++) bytes[index] = (uint8_t)(3 * index + 1);
    for (size_t index = 0; index < GCM_IV; index++) iv[index] = (uint8_t)(100 + index);
    for (size_t index = 0; index < ADDITIONAL; index++) additional[index] = (uint8_t)index;
    for (size_t index = 0; index < LENGTH; index++) plain[index] = (uint8_t)(7 * index + (index >> 8));
    struct gcm_key key;
    struct gcm_message message;
    gcm_set_key(&key, processor_class, bytes, key_length);
    memcpy(data, plain, LENGTH);
    gcm_begin(&key, &message, iv);
    int done = gcm_add(&key, &message, additional, ADDITIONAL) && gcm_encrypt(&key, &message, data, data, split) &&
               gcm_encrypt(&key, &message, data + split, data + split, LENGTH - split);
    gcm_finish(&key, &message, result);
    if (!done || memcmp(result, tag, GCM_TAG) != 0 || memcmp(data, first_block, GCM_BLOCK) != 0) return 0;
    gcm_begin(&key, &message, iv);
    done = gcm_add(&key, &message, additional, ADDITIONAL) && gcm_decrypt(&key, &message, data, data, split) &&
           gcm_decrypt(&key, &message, data + split, data + split, LENGTH - split);
    gcm_finish(&key, &message, result);
    return done && memcmp(result, tag, GCM_TAG) == 0 && memcmp(data, plain, LENGTH) == 0;
}

int caesgcm_self_test(int processor_class) {
    if (processor_class != CAESGCM_AVX2 && processor_class != CAESGCM_AVX512) return 0;
    for (size_t index = 0; index < sizeof answers / sizeof *answers; index++) {
        static const size_t splits[] = {0, 7, 500};
        for (size_t split = 0; split < sizeof splits / sizeof *splits; split++) {
            if (!is_right(
                    processor_class, answers[index].key_length, answers[index].first_block, answers[index].tag,
                    splits[split])) {
                return 0;
            }
        }
    }
    return 1;
}

#endif
