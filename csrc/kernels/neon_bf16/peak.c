/* The register-only rate of BFMMLA: 24 independent chains, as ../neon/peak.c has it for float32. */
#include <arm_neon.h>

#include "row.h"

double txk_peak_bf16_neon_bf16(size_t rounds)
{
    float32x4_t acc[24];
    uint8x16_t bits = vdupq_n_u8(1);
    const bfloat16x8_t x = vreinterpretq_bf16_u8(vdupq_n_u8(1));
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++)
        acc[i] = vdupq_n_f32(0);
    for (size_t n = 0; n < rounds; n++) {
        __asm__ volatile("" : "+w"(bits)); /* or the chains would be worked out once */
        const bfloat16x8_t y = vreinterpretq_bf16_u8(bits);
#pragma GCC unroll 24
        for (int i = 0; i < 24; i++)
            acc[i] = vbfmmlaq_f32(acc[i], x, y);
    }
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++)
        __asm__ volatile("" : : "w"(acc[i]));
    return (double)rounds * 24 * 16 * 2;
}
