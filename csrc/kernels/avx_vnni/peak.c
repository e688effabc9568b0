/* The register-only rate of the 256-bit vpdpbusd: as avx512_vnni/peak.c. */
#include "row.h"
#include "../avx2/simd.h"

double txk_peak_int8_avx_vnni(size_t rounds)
{
    __m256i acc[12];
    const __m256i x = _mm256_set1_epi8(3), y = _mm256_set1_epi8(-5);
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++)
        acc[i] = _mm256_set1_epi32(i);
    for (size_t n = 0; n < rounds; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++)
            __asm__ volatile("%{vex%} vpdpbusd %[y], %[x], %[sum]" : [sum] "+x"(acc[i]) : [x] "x"(x), [y] "x"(y));
    }
    __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++)
        sum = _mm256_add_epi32(sum, acc[i]);
    __asm__ volatile("" : : "x"(sum));
    return (double)rounds * 12 * 8 * 4 * 2;
}
