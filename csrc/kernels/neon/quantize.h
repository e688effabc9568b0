/* From float32 vectors to rows of bfloat16 or int8: for round_bf16, quantize_int8 and the norms that end in them. */
#ifndef TXK_NEON_QUANTIZE_H
#define TXK_NEON_QUANTIZE_H

#include <math.h>

#include "simd.h"

/* The float32 operations are those of ref/quantize.c, so that the integers are the same everywhere. */
struct row_scale {
    float scale, factor;        /* factor 0: a row of zeros */
};

/* max: the largest bit pattern of a magnitude; Inf and NaN are above all numbers. */
TXK_INLINE uint32x4_t max_magnitude(uint32x4_t max, float32x4_t x)
{
    return vmaxq_u32(max, vreinterpretq_u32_f32(vabsq_f32(x)));
}

TXK_INLINE struct row_scale scale_of_max(uint32x4_t max)
{
    const uint32_t most = vmaxvq_u32(max);
    float largest;
    memcpy(&largest, &most, sizeof largest);
    if (most >= 0x7f800000)
        return (struct row_scale){NAN, 0};
    if (largest < 0x1p-100f)
        return (struct row_scale){1, 0};
    return (struct row_scale){largest / 127.0f, 127.0f / largest};
}

/* 16 elements to int8, nearest even; their magnitudes are at most 127 by the choice of factor. */
TXK_INLINE void store_int8x16(int8_t *out, const float32x4_t x[4], float factor)
{
    int32x4_t q[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
        q[j] = vcvtnq_s32_f32(vmulq_n_f32(x[j], factor));
    const int16x8_t low = vcombine_s16(vqmovn_s32(q[0]), vqmovn_s32(q[1]));
    const int16x8_t high = vcombine_s16(vqmovn_s32(q[2]), vqmovn_s32(q[3]));
    vst1q_s8(out, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}

#endif
