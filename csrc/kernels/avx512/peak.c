/* The register-only rate: how many float32 operations a second this thread can do when no memory is touched. Benchmarks measure
 * it in the same minute as the kernels and state their rates as a share of it. 24 independent chains of multiply-adds, so that
 * latency hides. */
#include "row.h"
#include "simd.h"

double txk_peak_f32_avx512(size_t rounds)
{
    __m512 acc[24];
    const __m512 x = _mm512_set1_ps(0.5f);
    __m512 y = _mm512_set1_ps(1.0f);
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++)
        acc[i] = _mm512_set1_ps((float)i);
    for (size_t n = 0; n < rounds; n++) {
        __asm__ volatile("" : "+v"(y)); /* or the chains would be worked out once */
#pragma GCC unroll 24
        for (int i = 0; i < 24; i++)
            acc[i] = _mm512_fmadd_ps(acc[i], x, y);
    }
    __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++)
        sum = _mm512_add_ps(sum, acc[i]);
    __asm__ volatile("" : : "v"(sum));
    return (double)rounds * 24 * 16 * 2;
}

/* Of the five instructions that gemm_int8.c takes for 128 products, as avx2/peak.c. */
double txk_peak_int8_avx512(size_t rounds)
{
    __m512i acc[12];
    const __m512i x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(-5), ones = _mm512_set1_epi16(1);
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++)
        acc[i] = _mm512_set1_epi32(i);
    for (size_t n = 0; n < rounds; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) {
            __m512i p, q;
            __asm__ volatile("vpmaddubsw %[y], %[x], %[p]\n\t"
                             "vpmaddubsw %[y], %[x], %[q]\n\t"
                             "vpaddw %[q], %[p], %[p]\n\t"
                             "vpmaddwd %[ones], %[p], %[p]\n\t"
                             "vpaddd %[p], %[sum], %[sum]"
                             : [sum] "+v"(acc[i]), [p] "=&v"(p), [q] "=&v"(q) : [x] "v"(x), [y] "v"(y), [ones] "v"(ones));
        }
    }
    __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++)
        sum = _mm512_add_epi32(sum, acc[i]);
    __asm__ volatile("" : : "v"(sum));
    return (double)rounds * 12 * 128 * 2;
}
