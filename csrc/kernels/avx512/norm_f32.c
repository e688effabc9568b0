/* LayerNorm of each row, with affine and adaLN modulation: moments.h takes mean and deviation in two passes over a row that
 * stays in L1, a third writes it. */
#include "row.h"
#include "moments.h"

void txk_norm_f32_avx512(const struct tx_norm_f32 *job)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    for (size_t m = 0; m < job->M; m++) {
        const float *x = job->x + m * job->ldx;
        float *out = job->out + m * job->ldo;
        const size_t g = job->group ? (size_t)job->group[m] : 0;
        const float *scale = job->scale ? job->scale + g * job->ldm : NULL;
        const float *shift = job->scale ? job->shift + g * job->ldm : NULL;
        const struct moments row = row_moments(job, m);
        const __m512 row_shift = _mm512_set1_ps(row.shift), row_mean = _mm512_set1_ps(row.mean),
                     row_rstd = _mm512_set1_ps(row.rstd);
        for (size_t d = 0; d < job->D; d += 16) {
            const __mmask16 lanes = lanes_f32x16(job->D - d);
            __m512 y = _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, x + d), row_shift);
            y = _mm512_mul_ps(_mm512_sub_ps(y, row_mean), row_rstd);
            if (job->bias)
                y = _mm512_fmadd_ps(y, _mm512_maskz_loadu_ps(lanes, job->weight + d),
                                    _mm512_maskz_loadu_ps(lanes, job->bias + d));
            else if (job->weight)
                y = _mm512_mul_ps(y, _mm512_maskz_loadu_ps(lanes, job->weight + d));
            if (scale)
                y = _mm512_fmadd_ps(y, _mm512_add_ps(one, _mm512_maskz_loadu_ps(lanes, scale + d)),
                                    _mm512_maskz_loadu_ps(lanes, shift + d));
            _mm512_mask_storeu_ps(out + d, lanes, y);
        }
    }
}
