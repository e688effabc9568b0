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
