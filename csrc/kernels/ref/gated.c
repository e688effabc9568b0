/* The inside of a gated MLP, out = act(x) y, the version to read first: float32, or bfloat16 rounded once at the end. */
#include "row.h"

void txk_gated_f32_ref(const struct tx_gated *job)
{
    for (size_t m = 0; m < job->M; m++) {
        const float *x = (const float *)job->x + m * job->ldx, *y = (const float *)job->y + m * job->ldx;
        for (size_t f = 0; f < job->F; f++)
            ((float *)job->out)[m * job->ldo + f] = txk_activate_one_ref(x[f], job->act) * y[f];
    }
}

void txk_gated_bf16_ref(const struct tx_gated *job)
{
    for (size_t m = 0; m < job->M; m++) {
        const uint16_t *x = (const uint16_t *)job->x + m * job->ldx, *y = (const uint16_t *)job->y + m * job->ldx;
        uint16_t *out = (uint16_t *)job->out + m * job->ldo;
        for (size_t f = 0; f < job->F; f++)
            out[f] = tx_bf16_of_float(txk_activate_one_ref(tx_float_of_bf16(x[f]), job->act) * tx_float_of_bf16(y[f]));
        for (size_t f = job->F; f < tx_k_padded(job->F); f++)
            out[f] = 0;
    }
}
