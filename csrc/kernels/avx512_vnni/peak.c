/* The register-only rate of vpdpbusd: as avx512/peak.c, four multiply-adds a lane. In assembly, since gcc 12 copies the sums to
 * and fro. */
#include "row.h"
#include "../avx512/simd.h"

double txk_peak_int8_avx512_vnni(size_t rounds)
{
    __m512i acc[24];
    const __m512i x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(-5);
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++)
        acc[i] = _mm512_set1_epi32(i);
    for (size_t n = 0; n < rounds; n++) {
#pragma GCC unroll 24
        for (int i = 0; i < 24; i++)
            __asm__ volatile("vpdpbusd %[y], %[x], %[sum]" : [sum] "+v"(acc[i]) : [x] "v"(x), [y] "v"(y));
    }
    __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++)
        sum = _mm512_add_epi32(sum, acc[i]);
    __asm__ volatile("" : : "v"(sum));
    return (double)rounds * 24 * 16 * 4 * 2;
}
