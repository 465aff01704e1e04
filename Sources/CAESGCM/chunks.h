// Chunks of 16 blocks, for one class: included with the names of its registers and instructions. The order of a chunk's
// two halves, cipher and hash, does not matter to the processor: neither waits for the other, so that they run at once.

CLASS static inline __attribute__((always_inline)) __m128i NAME(hash_chunk)(
    const struct gcm_key *key, __m128i hash, const uint8_t *data
) {
    const VECTOR swap = BROADCAST(_mm_loadu_si128((const __m128i *)gcm_swap));
    VECTOR low = ZERO, middle = ZERO, high = ZERO;
    for (unsigned index = 0; index < CHUNK / sizeof(VECTOR); index++) {
        VECTOR blocks = SHUFFLE(LOAD(data + index * sizeof(VECTOR)), swap);
        if (index == 0) blocks = XOR(blocks, FIRST(hash));
        VECTOR power = LOAD(key->powers + index * sizeof(VECTOR));
        low = XOR(low, MULTIPLY(blocks, power, 0x00));
        high = XOR(high, MULTIPLY(blocks, power, 0x11));
        middle = XOR(middle, XOR(MULTIPLY(blocks, power, 0x01), MULTIPLY(blocks, power, 0x10)));
    }
    const VECTOR polynomial = BROADCAST(_mm_set1_epi64x((long long)GCM_POLYNOMIAL));
    middle = XOR(middle, XOR(MULTIPLY(low, polynomial, 0x00), HALVES(low)));
    high = XOR(high, XOR(MULTIPLY(middle, polynomial, 0x00), HALVES(middle)));
    return SUM(high);
}

CLASS static inline __attribute__((always_inline)) void NAME(cipher_chunk)(
    const struct gcm_key *key, VECTOR counter, const uint8_t *in, uint8_t *out
) {
    enum { COUNT = CHUNK / sizeof(VECTOR) };
    const VECTOR swap = BROADCAST(_mm_loadu_si128((const __m128i *)gcm_swap));
    const __m128i *keys = (const __m128i *)key->round_keys;
    VECTOR round_key = BROADCAST(_mm_loadu_si128(keys)), blocks[COUNT];
    for (unsigned index = 0; index < COUNT; index++) {
        blocks[index] = XOR(SHUFFLE(counter, swap), round_key);
        counter = ADD(counter, STEP);
    }
    for (unsigned round = 1; round < key->rounds; round++) {
        round_key = BROADCAST(_mm_loadu_si128(keys + round));
        for (unsigned index = 0; index < COUNT; index++) blocks[index] = ROUND(blocks[index], round_key);
    }
    round_key = BROADCAST(_mm_loadu_si128(keys + key->rounds));
    for (unsigned index = 0; index < COUNT; index++) {
        VECTOR stream = LAST_ROUND(blocks[index], round_key);
        STORE(out + index * sizeof(VECTOR), XOR(stream, LOAD(in + index * sizeof(VECTOR))));
    }
}

CLASS static void NAME(chunks)(
    const struct gcm_key *key, __m128i *counter, __m128i *hash, const uint8_t *in, uint8_t *out, size_t count,
    int encrypts
) {
    VECTOR counters = ADD(BROADCAST(*counter), START);
    __m128i sum = *hash;
    for (size_t index = 0; index < count; index++) {
        if (!encrypts) sum = NAME(hash_chunk)(key, sum, in);
        NAME(cipher_chunk)(key, counters, in, out);
        if (encrypts) sum = NAME(hash_chunk)(key, sum, out);
        counters = ADD(counters, CHUNK_STEP);
        in += CHUNK;
        out += CHUNK;
    }
    *hash = sum;
    *counter = _mm_add_epi32(*counter, _mm_set_epi32(0, 0, 0, (int)(count * (CHUNK / GCM_BLOCK))));
}
