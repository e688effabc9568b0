/* LayerNorm of each row, with affine and adaLN modulation.
 *
 * Three passes over a row that stays in L1. The first takes a mean m0, good to some ulp of the largest elements; the second sums
 * d = x - m0 and d^2, so mean = m0 + avg(d) and var = avg(d^2) - avg(d)^2, with nothing to cancel since avg(d) is tiny: a row with mean
 * 1000 and deviation 1 keeps all its digits. Each sum runs in four vectors, whose order is a function of D alone. */
#include "kernels_avx2.h"
#include "norm_avx2.h"

void txk_norm_f32_avx2(const struct tx_norm_f32 *job)
{
    for (size_t m = 0; m < job->M; m++) {
        const struct norm_row row = norm_row(job, m);
        float *out = job->out + m * job->ldo;
        for (size_t d = 0; d < job->D; d += 8)
            store_f32x8(out + d, job->D - d, norm_at(&row, d, job->D - d));
    }
}
