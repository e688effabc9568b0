/* LayerNorm and RMS norm, the version to read first: mean (0 in the latter), then the variance around it, in double; then
 * the affine parts that are given; the result as float32, or rounded from there to bfloat16 or int8 for the next product. */
#include "row.h"

#include <math.h>

struct txk_moments_ref txk_moments_ref(const struct tx_norm_f32 *job, size_t m)
{
    const float *x = job->x + m * job->ldx;
    double mean = 0, var = 0;
    for (size_t d = 0; d < job->D && !job->rms; d++)
        mean += x[d];
    mean /= (double)job->D;
    for (size_t d = 0; d < job->D; d++)
        var += (x[d] - mean) * (x[d] - mean);
    var /= (double)job->D;
    return (struct txk_moments_ref){mean, 1.0 / sqrt(var + job->eps)};
}

float txk_norm_one_ref(const struct tx_norm_f32 *job, size_t m, size_t d, struct txk_moments_ref moments)
{
    const size_t g = job->group ? (size_t)job->group[m] : 0;
    double y = (job->x[m * job->ldx + d] - moments.mean) * moments.rstd;
    if (job->weight)
        y = y * job->weight[d] + (job->bias ? job->bias[d] : 0);
    if (job->scale)
        y = y * (1.0 + job->scale[g * job->ldm + d]) + job->shift[g * job->ldm + d];
    return (float)y;
}

void txk_norm_f32_ref(const struct tx_norm_f32 *job)
{
    for (size_t m = 0; m < job->M; m++) {
        const struct txk_moments_ref moments = txk_moments_ref(job, m);
        for (size_t d = 0; d < job->D; d++)
            job->out[m * job->ldo + d] = txk_norm_one_ref(job, m, d, moments);
    }
}

void txk_norm_bf16_ref(const struct tx_norm_f32 *job, uint16_t *out)
{
    for (size_t m = 0; m < job->M; m++, out += job->ldo) {
        const struct txk_moments_ref moments = txk_moments_ref(job, m);
        for (size_t d = 0; d < tx_k_padded(job->D); d++)
            out[d] = d < job->D ? tx_bf16_of_float(txk_norm_one_ref(job, m, d, moments)) : 0;
    }
}

void txk_norm_int8_ref(const struct tx_norm_f32 *job, int8_t *out, float *scale)
{
    for (size_t m = 0; m < job->M; m++, out += job->ldo) {
        const struct txk_moments_ref moments = txk_moments_ref(job, m);
        float max = 0;
        for (size_t d = 0; d < job->D; d++)
            max = txk_max_magnitude_ref(max, txk_norm_one_ref(job, m, d, moments));
        const struct txk_scale_ref s = txk_scale_of_max_ref(max);
        scale[m] = s.scale;
        for (size_t d = 0; d < tx_k_padded(job->D); d++)
            out[d] = d < job->D ? txk_quantize_one_ref(txk_norm_one_ref(job, m, d, moments), s.factor) : 0;
    }
}
