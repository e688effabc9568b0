/* Mean and deviation of a row, for the norms; of an RMS norm the mean is 0, and there is no first pass.
 *
 * The first pass takes a mean m0, good to some ulp of the largest elements; the second sums d = x - m0 and d^2, so mean = m0 +
 * avg(d) and var = avg(d^2) - avg(d)^2, with nothing to cancel since avg(d) is tiny: a row with mean 1000 and deviation 1 keeps
 * all its digits. Each sum runs in four vectors, whose order is a function of D alone. Deviations from about 1e19 have squares
 * beyond float32: such a row is done again in double. */
#ifndef TXK_AVX512_MOMENTS_H
#define TXK_AVX512_MOMENTS_H

#include <float.h>
#include <math.h>

#include "../ref/row.h"
#include "simd.h"

struct moments {
    float shift, mean, rstd;    /* y = (x - shift - mean) rstd */
};

TXK_INLINE __m512 sum4(const __m512 s[4])
{
    return _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3]));
}

static struct moments row_moments(const struct tx_norm_f32 *job, size_t m)
{
    const float *x = job->x + m * job->ldx;
    const size_t D = job->D;
    __m512 sum[4], square[4];
    for (int j = 0; j < 4; j++)
        sum[j] = square[j] = _mm512_setzero_ps();
    size_t d = 0;
    float shift = 0;
    if (!job->rms) {
        for (; d + 64 <= D; d += 64)
            for (int j = 0; j < 4; j++)
                sum[j] = _mm512_add_ps(sum[j], _mm512_loadu_ps(x + d + 16 * j));
        for (int j = 0; d + 16 * (size_t)j < D; j++)
            sum[j] = _mm512_add_ps(sum[j], _mm512_maskz_loadu_ps(lanes_f32x16(D - d - 16 * j), x + d + 16 * j));
        shift = _mm512_reduce_add_ps(sum4(sum)) / (float)D;
    }

    const __m512 shifts = _mm512_set1_ps(shift);
    for (int j = 0; j < 4; j++)
        sum[j] = _mm512_setzero_ps();
    for (d = 0; d + 64 <= D; d += 64)
        for (int j = 0; j < 4; j++) {
            const __m512 v = _mm512_sub_ps(_mm512_loadu_ps(x + d + 16 * j), shifts);
            sum[j] = _mm512_add_ps(sum[j], v);
            square[j] = _mm512_fmadd_ps(v, v, square[j]);
        }
    for (int j = 0; d + 16 * (size_t)j < D; j++) {
        const __mmask16 lanes = lanes_f32x16(D - d - 16 * j);
        const __m512 v = _mm512_maskz_sub_ps(lanes, _mm512_maskz_loadu_ps(lanes, x + d + 16 * j), shifts);
        sum[j] = _mm512_add_ps(sum[j], v);
        square[j] = _mm512_fmadd_ps(v, v, square[j]);
    }
    const float mean = job->rms ? 0 : _mm512_reduce_add_ps(sum4(sum)) / (float)D;
    float var = _mm512_reduce_add_ps(sum4(square)) / (float)D - mean * mean;
    var = var < 0 ? 0 : var; /* NaN stays */
    if (!(var <= FLT_MAX)) { /* squares beyond float32, or a NaN */
        const struct txk_moments_ref exact = txk_moments_ref(job, m);
        return (struct moments){(float)exact.mean, (float)(exact.mean - (float)exact.mean), (float)exact.rstd};
    }
    return (struct moments){shift, mean, 1.0f / sqrtf(var + job->eps)};
}

#endif
