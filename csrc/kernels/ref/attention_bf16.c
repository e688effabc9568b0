/* out[Tq,Dh] = softmax(scale (q k^T + bias)) v of one head in bfloat16, the version to read first: one row of scores at a
 * time in scratch, the maximum subtracted before exp, sums in double in ascending order of keys. Probabilities (before they
 * are divided by their sum) enter the product with v as bfloat16; their sum is of the unrounded ones. A row with a NaN or
 * +inf score comes out as NaN. */
#include "row.h"

#include <math.h>

size_t txk_attention_bf16_scratch_ref(size_t Tk, size_t Dh)
{
    return (Tk + Dh) * sizeof(double);
}

void txk_attention_bf16_ref(const struct tx_attention_bf16 *job)
{
    double *p = job->scratch, *acc = p + job->Tk;   /* [Tk], [Dh] */
    for (size_t i = 0; i < job->Tq; i++) {
        const uint16_t *q = job->q + i * job->ldq;
        double max = -INFINITY, sum = 0;
        for (size_t j = 0; j < job->Tk; j++) {
            const uint16_t *k = job->k + j * job->ldk;
            double score = 0;
            for (size_t d = 0; d < job->Dh; d++)
                score += (double)tx_float_of_bf16(q[d]) * tx_float_of_bf16(k[d]);
            p[j] = (score + (job->bias ? job->bias[(ptrdiff_t)i - (ptrdiff_t)j] : 0)) * job->scale;
            if (p[j] > max)
                max = p[j];
        }
        for (size_t j = 0; j < job->Tk; j++) {
            p[j] = exp(p[j] - max);
            sum += p[j];
            p[j] = tx_float_of_bf16(tx_bf16_of_float((float)p[j]));
        }
        for (size_t d = 0; d < job->Dh; d++)
            acc[d] = 0;
        for (size_t j = 0; j < job->Tk; j++)
            for (size_t d = 0; d < job->Dh; d++)
                acc[d] += p[j] * tx_float_of_bf16(job->v[j * job->ldv + d]);
        for (size_t d = 0; d < job->Dh; d++)
            job->out[i * job->ldo + d] = tx_bf16_of_float((float)(acc[d] / sum));
    }
}
