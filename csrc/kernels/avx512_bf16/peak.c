/* The register-only rate of vdpbf16ps: as avx512/peak.c, two multiply-adds a lane. */
#include "row.h"
#include "../avx512/simd.h"

double txk_peak_bf16_avx512_bf16(size_t rounds)
{
    __m512 acc[24];
    const __m512bh x = (__m512bh)_mm512_set1_epi32(0x3f003f00); /* halves */
    __m512i y = _mm512_set1_epi32(0x3f803f80); /* ones */
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++)
        acc[i] = _mm512_set1_ps((float)i);
    for (size_t n = 0; n < rounds; n++) {
        __asm__ volatile("" : "+v"(y));
#pragma GCC unroll 24
        for (int i = 0; i < 24; i++)
            acc[i] = _mm512_dpbf16_ps(acc[i], x, (__m512bh)y);
    }
    __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++)
        sum = _mm512_add_ps(sum, acc[i]);
    __asm__ volatile("" : : "v"(sum));
    return (double)rounds * 24 * 16 * 2 * 2;
}
