/* out[Tq,Dh] = softmax(scale (q k^T + bias)) v of one head, the version to read first: one row of scores at a time in
 * scratch, the maximum subtracted before exp, all sums in double and in ascending order of keys. A row with a NaN or +inf
 * score comes out as NaN. */
#include "row.h"

#include <math.h>

size_t txk_attention_f32_scratch_ref(size_t Tk, size_t Dh)
{
    return (Tk + Dh) * sizeof(double);
}

void txk_attention_f32_ref(const struct tx_attention_f32 *job)
{
    double *p = job->scratch, *acc = p + job->Tk;   /* [Tk], [Dh] */
    for (size_t i = 0; i < job->Tq; i++) {
        const float *q = job->q + i * job->ldq;
        double max = -INFINITY, sum = 0;
        for (size_t j = 0; j < job->Tk; j++) {
            const float *k = job->k + j * job->ldk;
            double score = 0;
            for (size_t d = 0; d < job->Dh; d++)
                score += (double)q[d] * k[d];
            p[j] = (score + (job->bias ? job->bias[(ptrdiff_t)i - (ptrdiff_t)j] : 0)) * job->scale;
            if (p[j] > max)
                max = p[j];
        }
        for (size_t j = 0; j < job->Tk; j++) {
            p[j] = exp(p[j] - max);
            sum += p[j];
        }
        for (size_t d = 0; d < job->Dh; d++)
            acc[d] = 0;
        for (size_t j = 0; j < job->Tk; j++)
            for (size_t d = 0; d < job->Dh; d++)
                acc[d] += p[j] * job->v[j * job->ldv + d];
        for (size_t d = 0; d < job->Dh; d++)
            job->out[i * job->ldo + d] = (float)(acc[d] / sum);
    }
}
