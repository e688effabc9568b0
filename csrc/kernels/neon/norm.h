/* One row of a LayerNorm, for norm_f32, norm_bf16 and norm_int8: its moments, and its elements 4 at a time. norm.c has the
 * method. */
#ifndef TXK_NEON_NORM_H
#define TXK_NEON_NORM_H

#include <float.h>
#include <math.h>

#include "../ref/row.h"
#include "simd.h"

/* y = (x - near - mean) rstd, then the affine parts that are given. */
struct norm_row {
    const float *x, *weight, *bias, *scale, *shift;
    float near, mean, rstd;
};

TXK_INLINE float32x4_t sum4_f32x4(const float32x4_t s[4])
{
    return vaddq_f32(vaddq_f32(s[0], s[1]), vaddq_f32(s[2], s[3]));
}

TXK_INLINE struct norm_row norm_row(const struct tx_norm_f32 *job, size_t m)
{
    const size_t D = job->D, g = job->group ? (size_t)job->group[m] : 0;
    const float *x = job->x + m * job->ldx;
    struct norm_row row = {.x = x, .weight = job->weight, .bias = job->bias};
    if (job->scale) {
        row.scale = job->scale + g * job->ldm;
        row.shift = job->shift + g * job->ldm;
    }
    float32x4_t sum[4], square[4];
    for (int j = 0; j < 4; j++)
        sum[j] = square[j] = vdupq_n_f32(0);
    size_t d = 0;
    if (!job->rms) {
        for (; d + 16 <= D; d += 16)
            for (int j = 0; j < 4; j++)
                sum[j] = vaddq_f32(sum[j], vld1q_f32(x + d + 4 * j));
        for (int j = 0; d + 4 * (size_t)j < D; j++)
            sum[j] = vaddq_f32(sum[j], load_f32x4(x + d + 4 * j, D - d - 4 * j));
        row.near = vaddvq_f32(sum4_f32x4(sum)) / (float)D;
    }

    const float32x4_t near = vdupq_n_f32(row.near);
    for (int j = 0; j < 4; j++)
        sum[j] = vdupq_n_f32(0);
    for (d = 0; d + 16 <= D; d += 16)
        for (int j = 0; j < 4; j++) {
            const float32x4_t v = vsubq_f32(vld1q_f32(x + d + 4 * j), near);
            sum[j] = vaddq_f32(sum[j], v);
            square[j] = fma_f32x4(v, v, square[j]);
        }
    for (int j = 0; d + 4 * (size_t)j < D; j++) {
        const size_t left = D - d - 4 * (size_t)j;
        /* The lanes past the row count as its mean. */
        const float32x4_t v =
            masked_f32x4(vsubq_f32(load_f32x4(x + d + 4 * j, left), near), lanes_f32x4(left));
        sum[j] = vaddq_f32(sum[j], v);
        square[j] = fma_f32x4(v, v, square[j]);
    }
    row.mean = job->rms ? 0 : vaddvq_f32(sum4_f32x4(sum)) / (float)D;
    float var = vaddvq_f32(sum4_f32x4(square)) / (float)D - row.mean * row.mean;
    var = var < 0 ? 0 : var; /* NaN stays */
    row.rstd = 1.0f / sqrtf(var + job->eps);
    if (!(var <= FLT_MAX)) { /* squares beyond float32, or a NaN */
        const struct txk_moments_ref exact = txk_moments_ref(job, m);
        row.near = (float)exact.mean;
        row.mean = (float)(exact.mean - row.near);
        row.rstd = (float)exact.rstd;
    }
    return row;
}

/* Elements d.. of the result, `left` of them or 4; the rest of the vector is not of use. */
TXK_INLINE float32x4_t norm_at(const struct norm_row *row, size_t d, size_t left)
{
    float32x4_t y = vsubq_f32(load_f32x4(row->x + d, left), vdupq_n_f32(row->near));
    y = vmulq_f32(vsubq_f32(y, vdupq_n_f32(row->mean)), vdupq_n_f32(row->rstd));
    if (row->bias)
        y = fma_f32x4(y, load_f32x4(row->weight + d, left), load_f32x4(row->bias + d, left));
    else if (row->weight)
        y = vmulq_f32(y, load_f32x4(row->weight + d, left));
    if (row->scale)
        y = fma_f32x4(y, vaddq_f32(vdupq_n_f32(1.0f), load_f32x4(row->scale + d, left)),
                            load_f32x4(row->shift + d, left));
    return y;
}

/* The same, with 0 for the elements past D. */
TXK_INLINE float32x4_t padded_norm_at(const struct norm_row *row, size_t d, size_t D)
{
    if (d >= D)
        return vdupq_n_f32(0);
    const float32x4_t y = norm_at(row, d, D - d);
    return D - d >= 4 ? y : masked_f32x4(y, lanes_f32x4(D - d));
}

#endif
