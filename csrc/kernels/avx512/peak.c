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
