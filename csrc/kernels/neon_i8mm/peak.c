/* The register-only rate of SMMLA: 24 independent chains, as ../neon/peak.c has it for float32. */
#include <arm_neon.h>

#include "row.h"

double txk_peak_int8_neon_i8mm(size_t rounds)
{
    int32x4_t acc[24];
    uint8x16_t bits = vdupq_n_u8(1);
    const int8x16_t x = vreinterpretq_s8_u8(vdupq_n_u8(1));
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++)
        acc[i] = vdupq_n_s32(0);
    for (size_t n = 0; n < rounds; n++) {
        __asm__ volatile("" : "+w"(bits)); /* or the chains would be worked out once */
        const int8x16_t y = vreinterpretq_s8_u8(bits);
#pragma GCC unroll 24
        for (int i = 0; i < 24; i++)
            acc[i] = vmmlaq_s32(acc[i], x, y);
    }
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++)
        __asm__ volatile("" : : "w"(acc[i]));
    return (double)rounds * 24 * 32 * 2;
}
