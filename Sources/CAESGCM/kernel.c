// AES and GHASH themselves, from FIPS 197 and NIST SP 800-38D. Nothing looks up a table and nothing branches on what is
// secret, so that time tells nothing.
//
// GHASH reads bits in the opposite order of PCLMULQDQ. Its product is one bit to the right of where it belongs; with
// one factor, the hash key, moved one bit to the left beforehand, it is right (Gueron and Kounavis, "Intel Carry-Less
// Multiplication Instruction and its Usage for Computing the GCM Mode", 2014). The sum of a chunk's products is reduced
// once: each block is multiplied by the power of the hash key that its place asks for.
#include "kernel.h"

#if defined(__x86_64__) && defined(__ELF__)
#include <immintrin.h>
#include <string.h>

#define CHUNK (GCM_CHUNK * GCM_BLOCK)
// x^127 + x^126 + x^121 + 1: the mode's polynomial without its highest term, bits reversed.
#define GCM_POLYNOMIAL UINT64_C(0xC200000000000000)
#define BLOCKWISE __attribute__((target("aes,pclmul,sse4.1")))

static const uint8_t gcm_swap[GCM_BLOCK] = {15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0};

BLOCKWISE static inline __m128i load(const uint8_t *bytes) { return _mm_loadu_si128((const __m128i *)bytes); }
BLOCKWISE static inline void store(uint8_t *bytes, __m128i value) { _mm_storeu_si128((__m128i *)bytes, value); }
BLOCKWISE static inline __m128i swapped(__m128i value) { return _mm_shuffle_epi8(value, load(gcm_swap)); }

// MARK: - Keys

BLOCKWISE static inline __m128i shifted_sums(__m128i key) {
    key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    return _mm_xor_si128(key, _mm_slli_si128(key, 8));
}

// FIPS 197, section 5.2; the round constant must be a literal.
#define NEXT(KEY, BEFORE, CONSTANT, WORD) \
    _mm_xor_si128(shifted_sums(KEY), _mm_shuffle_epi32(_mm_aeskeygenassist_si128(BEFORE, CONSTANT), WORD))

BLOCKWISE static void expand_128(uint8_t *keys, __m128i key) {
    store(keys, key);
#define KEY(INDEX, CONSTANT) store(keys + INDEX * GCM_BLOCK, key = NEXT(key, key, CONSTANT, 0xFF))
    KEY(1, 0x01); KEY(2, 0x02); KEY(3, 0x04); KEY(4, 0x08); KEY(5, 0x10);
    KEY(6, 0x20); KEY(7, 0x40); KEY(8, 0x80); KEY(9, 0x1B); KEY(10, 0x36);
#undef KEY
}

BLOCKWISE static void expand_256(uint8_t *keys, __m128i even, __m128i odd) {
    store(keys, even);
    store(keys + GCM_BLOCK, odd);
#define EVEN(INDEX, CONSTANT) store(keys + INDEX * GCM_BLOCK, even = NEXT(even, odd, CONSTANT, 0xFF))
#define ODD(INDEX) store(keys + INDEX * GCM_BLOCK, odd = NEXT(odd, even, 0, 0xAA))
    EVEN(2, 0x01); ODD(3); EVEN(4, 0x02); ODD(5); EVEN(6, 0x04); ODD(7); EVEN(8, 0x08); ODD(9);
    EVEN(10, 0x10); ODD(11); EVEN(12, 0x20); ODD(13); EVEN(14, 0x40);
#undef EVEN
#undef ODD
}

BLOCKWISE static inline __m128i encrypted(const struct gcm_key *key, __m128i block) {
    block = _mm_xor_si128(block, load(key->round_keys));
    for (unsigned round = 1; round < key->rounds; round++) {
        block = _mm_aesenc_si128(block, load(key->round_keys + round * GCM_BLOCK));
    }
    return _mm_aesenclast_si128(block, load(key->round_keys + key->rounds * GCM_BLOCK));
}

// MARK: - GHASH

// A sum of products that is not reduced yet.
struct product {
    __m128i low, middle, high;
};

BLOCKWISE static inline void add_product(struct product *sum, __m128i block, __m128i power) {
    sum->low = _mm_xor_si128(sum->low, _mm_clmulepi64_si128(block, power, 0x00));
    sum->high = _mm_xor_si128(sum->high, _mm_clmulepi64_si128(block, power, 0x11));
    sum->middle = _mm_xor_si128(sum->middle, _mm_clmulepi64_si128(block, power, 0x01));
    sum->middle = _mm_xor_si128(sum->middle, _mm_clmulepi64_si128(block, power, 0x10));
}

// Folds the lowest 64 bits upwards, twice.
BLOCKWISE static inline __m128i reduced(struct product sum) {
    const __m128i polynomial = _mm_set1_epi64x((long long)GCM_POLYNOMIAL);
    __m128i folded = _mm_xor_si128(_mm_clmulepi64_si128(sum.low, polynomial, 0x00), _mm_shuffle_epi32(sum.low, 0x4E));
    sum.middle = _mm_xor_si128(sum.middle, folded);
    folded = _mm_xor_si128(_mm_clmulepi64_si128(sum.middle, polynomial, 0x00), _mm_shuffle_epi32(sum.middle, 0x4E));
    return _mm_xor_si128(sum.high, folded);
}

BLOCKWISE static inline __m128i multiplied(__m128i block, __m128i power) {
    struct product sum = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()};
    add_product(&sum, block, power);
    return reduced(sum);
}

// At most a chunk's blocks.
BLOCKWISE static inline __m128i hashed(const struct gcm_key *key, __m128i hash, const uint8_t *data, size_t blocks) {
    struct product sum = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()};
    const uint8_t *powers = key->powers + CHUNK - blocks * GCM_BLOCK;
    for (size_t index = 0; index < blocks; index++) {
        __m128i block = swapped(load(data + index * GCM_BLOCK));
        if (index == 0) block = _mm_xor_si128(block, hash);
        add_product(&sum, block, load(powers + index * GCM_BLOCK));
    }
    return blocks == 0 ? hash : reduced(sum);
}

// The hash key times x: what PCLMULQDQ's order of bits asks for.
BLOCKWISE static __m128i adjusted(__m128i hash_key) {
    uint64_t low = (uint64_t)_mm_extract_epi64(hash_key, 0), high = (uint64_t)_mm_extract_epi64(hash_key, 1);
    uint64_t carry = -(high >> 63);
    uint64_t shifted = (high << 1 | low >> 63) ^ (carry & GCM_POLYNOMIAL);
    return _mm_set_epi64x((long long)shifted, (long long)(low << 1 ^ (carry & 1)));
}

// MARK: - For messages

BLOCKWISE void gcm_expand(struct gcm_key *key, const uint8_t *bytes, size_t length) {
    key->rounds = length == 16 ? 10 : 14;
    if (length == 16) expand_128(key->round_keys, load(bytes));
    else expand_256(key->round_keys, load(bytes), load(bytes + GCM_BLOCK));
    // The last power is the hash key itself.
    const __m128i hash_key = adjusted(swapped(encrypted(key, _mm_setzero_si128())));
    __m128i power = hash_key;
    for (unsigned index = GCM_CHUNK; index-- != 0;) {
        store(key->powers + index * GCM_BLOCK, power);
        power = multiplied(power, hash_key);
    }
}

BLOCKWISE void gcm_encrypt_block(const struct gcm_key *key, const uint8_t in[GCM_BLOCK], uint8_t out[GCM_BLOCK]) {
    store(out, encrypted(key, load(in)));
}

BLOCKWISE void gcm_hash(const struct gcm_key *key, uint8_t hash[GCM_BLOCK], const uint8_t *data, size_t blocks) {
    __m128i sum = swapped(load(hash));
    while (blocks != 0) {
        size_t count = blocks < GCM_CHUNK ? blocks : GCM_CHUNK;
        sum = hashed(key, sum, data, count);
        data += count * GCM_BLOCK;
        blocks -= count;
    }
    store(hash, swapped(sum));
}

BLOCKWISE void gcm_multiply(const struct gcm_key *key, uint8_t hash[GCM_BLOCK]) {
    __m128i power = load(key->powers + CHUNK - GCM_BLOCK);
    store(hash, swapped(multiplied(swapped(load(hash)), power)));
}

// MARK: - Chunks

#define CLASS __attribute__((target("aes,pclmul,sse4.1,avx2,vaes,vpclmulqdq")))
#define NAME(FUNCTION) FUNCTION##_avx2
#define VECTOR __m256i
#define ZERO _mm256_setzero_si256()
#define LOAD(BYTES) _mm256_loadu_si256((const __m256i *)(BYTES))
#define STORE(BYTES, VALUE) _mm256_storeu_si256((__m256i *)(BYTES), VALUE)
#define BROADCAST(BLOCK) _mm256_broadcastsi128_si256(BLOCK)
#define FIRST(BLOCK) _mm256_zextsi128_si256(BLOCK)
#define XOR(A, B) _mm256_xor_si256(A, B)
#define ADD(A, B) _mm256_add_epi32(A, B)
#define SHUFFLE(VALUE, ORDER) _mm256_shuffle_epi8(VALUE, ORDER)
#define HALVES(VALUE) _mm256_shuffle_epi32(VALUE, 0x4E)
#define MULTIPLY(A, B, HALF) _mm256_clmulepi64_epi128(A, B, HALF)
#define ROUND(BLOCKS, KEY) _mm256_aesenc_epi128(BLOCKS, KEY)
#define LAST_ROUND(BLOCKS, KEY) _mm256_aesenclast_epi128(BLOCKS, KEY)
#define SUM(VALUE) _mm_xor_si128(_mm256_castsi256_si128(VALUE), _mm256_extracti128_si256(VALUE, 1))
#define START _mm256_set_epi32(0, 0, 0, 1, 0, 0, 0, 0)
#define STEP _mm256_set_epi32(0, 0, 0, 2, 0, 0, 0, 2)
#define CHUNK_STEP _mm256_set_epi32(0, 0, 0, GCM_CHUNK, 0, 0, 0, GCM_CHUNK)
#include "chunks.h"
#undef CLASS
#undef NAME
#undef VECTOR
#undef ZERO
#undef LOAD
#undef STORE
#undef BROADCAST
#undef FIRST
#undef XOR
#undef ADD
#undef SHUFFLE
#undef HALVES
#undef MULTIPLY
#undef ROUND
#undef LAST_ROUND
#undef SUM
#undef START
#undef STEP
#undef CHUNK_STEP

#define CLASS __attribute__((target("aes,pclmul,sse4.1,avx2,avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq")))
#define NAME(FUNCTION) FUNCTION##_avx512
#define VECTOR __m512i
#define ZERO _mm512_setzero_si512()
#define LOAD(BYTES) _mm512_loadu_si512(BYTES)
#define STORE(BYTES, VALUE) _mm512_storeu_si512(BYTES, VALUE)
#define BROADCAST(BLOCK) _mm512_broadcast_i32x4(BLOCK)
#define FIRST(BLOCK) _mm512_zextsi128_si512(BLOCK)
#define XOR(A, B) _mm512_xor_si512(A, B)
#define ADD(A, B) _mm512_add_epi32(A, B)
#define SHUFFLE(VALUE, ORDER) _mm512_shuffle_epi8(VALUE, ORDER)
#define HALVES(VALUE) _mm512_shuffle_epi32(VALUE, 0x4E)
#define MULTIPLY(A, B, HALF) _mm512_clmulepi64_epi128(A, B, HALF)
#define ROUND(BLOCKS, KEY) _mm512_aesenc_epi128(BLOCKS, KEY)
#define LAST_ROUND(BLOCKS, KEY) _mm512_aesenclast_epi128(BLOCKS, KEY)
#define SUM(VALUE) quarter_sum(VALUE)
#define START _mm512_set_epi32(0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0)
#define STEP _mm512_set_epi32(0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4)
#define CHUNK_STEP \
    _mm512_set_epi32(0, 0, 0, GCM_CHUNK, 0, 0, 0, GCM_CHUNK, 0, 0, 0, GCM_CHUNK, 0, 0, 0, GCM_CHUNK)

CLASS static inline __m128i quarter_sum(__m512i value) {
    __m256i half = _mm256_xor_si256(_mm512_castsi512_si256(value), _mm512_extracti64x4_epi64(value, 1));
    return _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

#include "chunks.h"

BLOCKWISE void gcm_cipher(
    const struct gcm_key *key, uint8_t counter[GCM_BLOCK], uint8_t hash[GCM_BLOCK], const uint8_t *in, uint8_t *out,
    size_t blocks, int encrypts
) {
    __m128i number = swapped(load(counter)), sum = swapped(load(hash));
    size_t chunks = blocks / GCM_CHUNK, done = chunks * CHUNK;
    if (chunks != 0) {
        if (key->processor_class == CAESGCM_AVX512) chunks_avx512(key, &number, &sum, in, out, chunks, encrypts);
        else chunks_avx2(key, &number, &sum, in, out, chunks, encrypts);
    }
    // What is less than a chunk.
    size_t rest = blocks % GCM_CHUNK;
    if (!encrypts) sum = hashed(key, sum, in + done, rest);
    for (size_t index = 0; index < rest; index++) {
        const size_t place = done + index * GCM_BLOCK;
        store(out + place, _mm_xor_si128(encrypted(key, swapped(number)), load(in + place)));
        number = _mm_add_epi32(number, _mm_set_epi32(0, 0, 0, 1));
    }
    if (encrypts) sum = hashed(key, sum, out + done, rest);
    store(counter, swapped(number));
    store(hash, swapped(sum));

}

#endif
