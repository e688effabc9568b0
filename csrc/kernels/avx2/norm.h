/* One row of a LayerNorm, for norm_f32, norm_bf16 and norm_int8: its moments, and its elements 8 at a time. norm.c has the
 * method. */
#ifndef TXK_AVX2_NORM_H
#define TXK_AVX2_NORM_H

#include <float.h>
#include <math.h>

#include "../ref/row.h"
#include "simd.h"

/* y = (x - near - mean) rstd, then the affine parts that are given. */
struct norm_row {
    const float *x, *weight, *bias, *scale, *shift;
    float near, mean, rstd;
};

TXK_INLINE __m256 sum4_f32x8(const __m256 s[4])
{
    return _mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3]));
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
    __m256 sum[4], square[4];
    for (int j = 0; j < 4; j++)
        sum[j] = square[j] = _mm256_setzero_ps();
    size_t d = 0;
    if (!job->rms) {
        for (; d + 32 <= D; d += 32)
            for (int j = 0; j < 4; j++)
                sum[j] = _mm256_add_ps(sum[j], _mm256_loadu_ps(x + d + 8 * j));
        for (int j = 0; d + 8 * (size_t)j < D; j++)
            sum[j] = _mm256_add_ps(sum[j], load_f32x8(x + d + 8 * j, D - d - 8 * j));
        row.near = sum_of_f32x8(sum4_f32x8(sum)) / (float)D;
    }

    const __m256 near = _mm256_set1_ps(row.near);
    for (int j = 0; j < 4; j++)
        sum[j] = _mm256_setzero_ps();
    for (d = 0; d + 32 <= D; d += 32)
        for (int j = 0; j < 4; j++) {
            const __m256 v = _mm256_sub_ps(_mm256_loadu_ps(x + d + 8 * j), near);
            sum[j] = _mm256_add_ps(sum[j], v);
            square[j] = _mm256_fmadd_ps(v, v, square[j]);
        }
    for (int j = 0; d + 8 * (size_t)j < D; j++) {
        const size_t left = D - d - 8 * (size_t)j;
        /* The lanes past the row count as its mean. */
        const __m256 v =
            _mm256_and_ps(_mm256_sub_ps(load_f32x8(x + d + 8 * j, left), near), _mm256_castsi256_ps(lanes_f32x8(left)));
        sum[j] = _mm256_add_ps(sum[j], v);
        square[j] = _mm256_fmadd_ps(v, v, square[j]);
    }
    row.mean = job->rms ? 0 : sum_of_f32x8(sum4_f32x8(sum)) / (float)D;
    float var = sum_of_f32x8(sum4_f32x8(square)) / (float)D - row.mean * row.mean;
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

/* Elements d.. of the result, `left` of them or 8; the rest of the vector is not of use. */
TXK_INLINE __m256 norm_at(const struct norm_row *row, size_t d, size_t left)
{
    __m256 y = _mm256_sub_ps(load_f32x8(row->x + d, left), _mm256_set1_ps(row->near));
    y = _mm256_mul_ps(_mm256_sub_ps(y, _mm256_set1_ps(row->mean)), _mm256_set1_ps(row->rstd));
    if (row->bias)
        y = _mm256_fmadd_ps(y, load_f32x8(row->weight + d, left), load_f32x8(row->bias + d, left));
    else if (row->weight)
        y = _mm256_mul_ps(y, load_f32x8(row->weight + d, left));
    if (row->scale)
        y = _mm256_fmadd_ps(y, _mm256_add_ps(_mm256_set1_ps(1.0f), load_f32x8(row->scale + d, left)),
                            load_f32x8(row->shift + d, left));
    return y;
}

/* The same, with 0 for the elements past D. */
TXK_INLINE __m256 padded_norm_at(const struct norm_row *row, size_t d, size_t D)
{
    if (d >= D)
        return _mm256_setzero_ps();
    const __m256 y = norm_at(row, d, D - d);
    return D - d >= 8 ? y : _mm256_and_ps(y, _mm256_castsi256_ps(lanes_f32x8(D - d)));
}

#endif
