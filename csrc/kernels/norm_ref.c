/* LayerNorm, the version to read first: mean, then the variance around it, in double; then the affine parts that are given. */
#include "kernels_ref.h"

#include <math.h>

void txk_norm_f32_ref(const struct tx_norm_f32 *job)
{
    const size_t D = job->D;
    for (size_t m = 0; m < job->M; m++) {
        const float *x = job->x + m * job->ldx;
        float *out = job->out + m * job->ldo;
        double mean = 0, var = 0;
        for (size_t d = 0; d < D; d++)
            mean += x[d];
        mean /= (double)D;
        for (size_t d = 0; d < D; d++)
            var += (x[d] - mean) * (x[d] - mean);
        var /= (double)D;
        const double rstd = 1.0 / sqrt(var + job->eps);
        const size_t g = job->group ? (size_t)job->group[m] : 0;
        for (size_t d = 0; d < D; d++) {
            double y = (x[d] - mean) * rstd;
            if (job->weight)
                y = y * job->weight[d] + job->bias[d];
            if (job->scale)
                y = y * (1.0 + job->scale[g * job->ldm + d]) + job->shift[g * job->ldm + d];
            out[d] = (float)y;
        }
    }
}
