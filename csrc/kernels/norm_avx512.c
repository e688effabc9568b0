/* LayerNorm of each row, with affine and adaLN modulation.
 *
 * Three passes over a row that stays in L1. The first takes a mean m0, good to some ulp of the largest elements; the second sums
 * d = x - m0 and d^2, so mean = m0 + avg(d) and var = avg(d^2) - avg(d)^2, with nothing to cancel since avg(d) is tiny: a row with mean
 * 1000 and deviation 1 keeps all its digits. Each sum runs in four vectors, whose order is a function of D alone. */
#include <math.h>

#include "kernels_avx512.h"
#include "simd_avx512.h"

struct moments {
    float shift, mean, rstd;    /* y = (x - shift - mean) rstd */
};

TXK_INLINE __m512 sum4(const __m512 s[4])
{
    return _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3]));
}

static struct moments row_moments(const float *x, size_t D, float eps)
{
    __m512 sum[4], square[4];
    for (int j = 0; j < 4; j++)
        sum[j] = square[j] = _mm512_setzero_ps();
    size_t d = 0;
    for (; d + 64 <= D; d += 64)
        for (int j = 0; j < 4; j++)
            sum[j] = _mm512_add_ps(sum[j], _mm512_loadu_ps(x + d + 16 * j));
    for (int j = 0; d + 16 * (size_t)j < D; j++)
        sum[j] = _mm512_add_ps(sum[j], _mm512_maskz_loadu_ps(lanes_f32x16(D - d - 16 * j), x + d + 16 * j));
    const float shift = _mm512_reduce_add_ps(sum4(sum)) / (float)D;

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
    const float mean = _mm512_reduce_add_ps(sum4(sum)) / (float)D;
    float var = _mm512_reduce_add_ps(sum4(square)) / (float)D - mean * mean;
    var = var < 0 ? 0 : var; /* NaN stays */
    return (struct moments){shift, mean, 1.0f / sqrtf(var + eps)};
}

void txk_norm_f32_avx512(const struct tx_norm_f32 *job)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    for (size_t m = 0; m < job->M; m++) {
        const float *x = job->x + m * job->ldx;
        float *out = job->out + m * job->ldo;
        const size_t g = job->group ? (size_t)job->group[m] : 0;
        const float *scale = job->scale ? job->scale + g * job->ldm : NULL;
        const float *shift = job->scale ? job->shift + g * job->ldm : NULL;
        const struct moments row = row_moments(x, job->D, job->eps);
        const __m512 row_shift = _mm512_set1_ps(row.shift), row_mean = _mm512_set1_ps(row.mean), row_rstd = _mm512_set1_ps(row.rstd);
        for (size_t d = 0; d < job->D; d += 16) {
            const __mmask16 lanes = lanes_f32x16(job->D - d);
            __m512 y = _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, x + d), row_shift);
            y = _mm512_mul_ps(_mm512_sub_ps(y, row_mean), row_rstd);
            if (job->weight)
                y = _mm512_fmadd_ps(y, _mm512_maskz_loadu_ps(lanes, job->weight + d), _mm512_maskz_loadu_ps(lanes, job->bias + d));
            if (scale)
                y = _mm512_fmadd_ps(y, _mm512_add_ps(one, _mm512_maskz_loadu_ps(lanes, scale + d)),
                                    _mm512_maskz_loadu_ps(lanes, shift + d));
            _mm512_mask_storeu_ps(out + d, lanes, y);
        }
    }
}
