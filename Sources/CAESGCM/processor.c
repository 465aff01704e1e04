// Which instructions this processor and its operating system have.
#include "CAESGCM.h"

#if defined(__x86_64__) && defined(__ELF__)
#include <cpuid.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// CPUID's words in the order of OPENSSL_ia32cap: leaf 1 EDX and ECX, leaf 7 EBX and ECX.
struct features {
    uint32_t edx1, ecx1, ebx7, ecx7;
    // XCR0, what the operating system saves; 0 where it does not say.
    uint64_t saved;
    int slows_down_with_512_bits;
};

static uint64_t joined(uint32_t low, uint32_t high) { return (uint64_t)high << 32 | low; }

// One half of OPENSSL_ia32cap: `~` takes bits away, a number alone is all that is left. What the processor has not got
// cannot be added here.
static uint64_t masked(uint64_t features, const char *text) {
    if (*text == '~') return features & ~strtoull(text + 1, NULL, 0);
    return features & strtoull(text, NULL, 0);
}

// As OPENSSL_cpuid_setup(3) reads it: VALUE, VALUE:EXTENDED or :EXTENDED; without the second, nothing extended.
static void apply(struct features *features, const char *mask) {
    const char *colon = strchr(mask, ':');
    if (colon != mask) {
        uint64_t first = masked(joined(features->edx1, features->ecx1), mask);
        features->edx1 = (uint32_t)first;
        features->ecx1 = (uint32_t)(first >> 32);
    }
    uint64_t second = colon ? masked(joined(features->ebx7, features->ecx7), colon + 1) : 0;
    features->ebx7 = (uint32_t)second;
    features->ecx7 = (uint32_t)(second >> 32);
}

// Intel's before Sapphire Rapids: the clock falls for everything on the core. BoringSSL has the same list.
static int slows_down(uint32_t vendor_ebx, uint32_t signature) {
    if (vendor_ebx != signature_INTEL_ebx || (signature >> 8 & 15) != 6) return 0;
    switch ((signature >> 4 & 15) | (signature >> 12 & 0xF0)) {
    case 85: case 106: case 108: case 125: case 126: case 140: case 141: return 1;
    default: return 0;
    }
}

static struct features read_features(const char *mask) {
    struct features features = {0};
    uint32_t eax, ebx, ecx, edx, vendor;
    if (!__get_cpuid(0, &eax, &vendor, &ecx, &edx)) return features;
    if (!__get_cpuid(1, &eax, &ebx, &features.ecx1, &features.edx1)) return features;
    features.slows_down_with_512_bits = slows_down(vendor, eax);
    if (!__get_cpuid_count(7, 0, &eax, &features.ebx7, &features.ecx7, &edx)) return features;
    if (features.ecx1 & bit_OSXSAVE) {
        uint32_t low, high;
        __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        features.saved = joined(low, high);
    }
    if (mask) apply(&features, mask);
    return features;
}

static int all(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

static int has_avx2(const struct features *features) {
    // XMM and YMM registers are saved.
    return all(features->saved, 0x06) && all(features->ecx1, bit_PCLMUL | bit_SSSE3 | bit_SSE4_1 | bit_AES | bit_AVX) &&
           all(features->ebx7, bit_AVX2 | bit_BMI2) && all(features->ecx7, bit_VAES | bit_VPCLMULQDQ);
}

static int has_avx512(const struct features *features) {
    // So are the mask registers and all of the ZMM registers.
    return has_avx2(features) && all(features->saved, 0xE6) &&
           all(features->ebx7, bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL);
}

int caesgcm_processor(const char *mask) {
    struct features features = read_features(mask);
    if (!has_avx2(&features)) return CAESGCM_NONE;
    return has_avx512(&features) && !features.slows_down_with_512_bits ? CAESGCM_AVX512 : CAESGCM_AVX2;
}

int caesgcm_openssl_has_avx512(const char *mask) {
    struct features features = read_features(mask);
    return has_avx512(&features);
}

#else

int caesgcm_processor(const char *mask) {
    (void)mask;
    return CAESGCM_NONE;
}

int caesgcm_openssl_has_avx512(const char *mask) {
    (void)mask;
    return 0;
}

#endif
