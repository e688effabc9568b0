/* The register-only rate of 256-bit multiply-adds, as avx512/peak.c measures it for 512 bits: 12 independent chains, so that
 * latency hides, and no memory is touched. Benchmarks state this row's rates as a share of it. */
#include "row.h"
#include "simd.h"

double txk_peak_f32_avx2(size_t rounds)
{
    __m256 acc[12];
    const __m256 x = _mm256_set1_ps(0.5f);
    __m256 y = _mm256_set1_ps(1.0f);
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++)
        acc[i] = _mm256_set1_ps((float)i);
    for (size_t n = 0; n < rounds; n++) {
        __asm__ volatile("" : "+x"(y)); /* or the chains would be worked out once */
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++)
            acc[i] = _mm256_fmadd_ps(acc[i], x, y);
    }
    __m256 sum = _mm256_setzero_ps();
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++)
        sum = _mm256_add_ps(sum, acc[i]);
    __asm__ volatile("" : : "x"(sum));
    return (double)rounds * 12 * 8 * 2;
}

/* Of the five instructions that gemm_int8.c takes for 64 products. In assembly, or equal products would be made once. */
double txk_peak_int8_avx2(size_t rounds)
{
    __m256i acc[8];
    const __m256i x = _mm256_set1_epi8(3), y = _mm256_set1_epi8(-5), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        acc[i] = _mm256_set1_epi32(i);
    for (size_t n = 0; n < rounds; n++) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __m256i p, q;
            __asm__ volatile("vpmaddubsw %[y], %[x], %[p]\n\t"
                             "vpmaddubsw %[y], %[x], %[q]\n\t"
                             "vpaddw %[q], %[p], %[p]\n\t"
                             "vpmaddwd %[ones], %[p], %[p]\n\t"
                             "vpaddd %[p], %[sum], %[sum]"
                             : [sum] "+x"(acc[i]), [p] "=&x"(p), [q] "=&x"(q) : [x] "x"(x), [y] "x"(y), [ones] "x"(ones));
        }
    }
    __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        sum = _mm256_add_epi32(sum, acc[i]);
    __asm__ volatile("" : : "x"(sum));
    return (double)rounds * 8 * 64 * 2;
}
