/* The register-only rate of 128-bit multiply-adds: 24 independent chains, so that latency hides, and no memory is touched.
 * Benchmarks state this row's rates as a share of it. */
#include "row.h"
#include "simd.h"

double txk_peak_f32_neon(size_t rounds)
{
    float32x4_t acc[24];
    const float32x4_t x = vdupq_n_f32(0.5f);
    float32x4_t y = vdupq_n_f32(1.0f);
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++)
        acc[i] = vdupq_n_f32((float)i);
    for (size_t n = 0; n < rounds; n++) {
        __asm__ volatile("" : "+w"(y)); /* or the chains would be worked out once */
#pragma GCC unroll 24
        for (int i = 0; i < 24; i++)
            acc[i] = vfmaq_f32(acc[i], x, y);
    }
    float32x4_t sum = vdupq_n_f32(0);
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++)
        sum = vaddq_f32(sum, acc[i]);
    __asm__ volatile("" : : "w"(sum));
    return (double)rounds * 24 * 4 * 2;
}
