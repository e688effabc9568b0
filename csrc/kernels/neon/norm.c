/* LayerNorm or RMS norm of each row, with affine and adaLN modulation. The latter leaves out the mean and the first pass.
 *
 * Three passes over a row that stays in L1. The first takes a mean m0, good to some ulp of the largest elements; the second
 * sums d = x - m0 and d^2, so mean = m0 + avg(d) and var = avg(d^2) - avg(d)^2, with nothing to cancel since avg(d) is tiny: a
 * row with mean 1000 and deviation 1 keeps all its digits. Each sum runs in four vectors, whose order is a function of D alone.
 * Deviations from about 1e19 have squares beyond float32: the moments of such a row are taken again in double.
 *
 * norm_int8 works its elements out twice, for the largest and for the integers: x is in L1, and there is nowhere to keep
 * them. */
#include "row.h"
#include "norm.h"
#include "quantize.h"

void txk_norm_f32_neon(const struct tx_norm_f32 *job)
{
    for (size_t m = 0; m < job->M; m++) {
        const struct norm_row row = norm_row(job, m);
        float *out = job->out + m * job->ldo;
        for (size_t d = 0; d < job->D; d += 4)
            store_f32x4(out + d, job->D - d, norm_at(&row, d, job->D - d));
    }
}

void txk_norm_bf16_neon(const struct tx_norm_f32 *job, uint16_t *out)
{
    for (size_t m = 0; m < job->M; m++, out += job->ldo) {
        const struct norm_row row = norm_row(job, m);
        for (size_t d = 0; d < tx_k_padded(job->D); d += 4)
            store_bf16x4(out + d, 4, padded_norm_at(&row, d, job->D));
    }
}

void txk_norm_int8_neon(const struct tx_norm_f32 *job, int8_t *out, float *scale)
{
    const size_t Dp = tx_k_padded(job->D);
    for (size_t m = 0; m < job->M; m++, out += job->ldo) {
        const struct norm_row row = norm_row(job, m);
        uint32x4_t max = vdupq_n_u32(0);
        for (size_t d = 0; d < job->D; d += 4)
            max = max_magnitude(max, padded_norm_at(&row, d, job->D));
        const struct row_scale s = scale_of_max(max);
        scale[m] = s.scale;
        if (s.factor == 0) {
            memset(out, 0, Dp);
            continue;
        }
        for (size_t d = 0; d < Dp; d += 16) {
            float32x4_t y[4];
            for (size_t j = 0; j < 4; j++)
                y[j] = padded_norm_at(&row, d + 4 * j, job->D);
            store_int8x16(out + d, y, s.factor);
        }
    }
}
