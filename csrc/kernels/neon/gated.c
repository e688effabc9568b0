/* The inside of a gated MLP, out = act(x) y, 4 elements at a time; the activations are in simd.h. */
#include "row.h"
#include "simd.h"

TXK_INLINE void gated_rows(const struct tx_gated *job, int act, int bf16)
{
    for (size_t m = 0; m < job->M; m++) {
        const size_t from = m * job->ldx, to = m * job->ldo;
        for (size_t f = 0; f < job->F; f += 4) {
            const size_t left = job->F - f;
            if (bf16) {
                const float32x4_t x = load_bf16x4((const uint16_t *)job->x + from + f, left),
                    y = load_bf16x4((const uint16_t *)job->y + from + f, left);
                store_bf16x4((uint16_t *)job->out + to + f, left, vmulq_f32(activate_f32x4(x, act), y));
            } else {
                const float32x4_t x = load_f32x4((const float *)job->x + from + f, left),
                    y = load_f32x4((const float *)job->y + from + f, left);
                store_f32x4((float *)job->out + to + f, left, vmulq_f32(activate_f32x4(x, act), y));
            }
        }
        if (bf16)
            memset((uint16_t *)job->out + to + job->F, 0, (tx_k_padded(job->F) - job->F) * sizeof(uint16_t));
    }
}

TXK_INLINE void gated(const struct tx_gated *job, int bf16)
{
    switch (job->act) {
    case TX_ACT_GELU_ERF: gated_rows(job, TX_ACT_GELU_ERF, bf16); break;
    case TX_ACT_GELU_TANH: gated_rows(job, TX_ACT_GELU_TANH, bf16); break;
    case TX_ACT_SILU: gated_rows(job, TX_ACT_SILU, bf16); break;
    case TX_ACT_TANH: gated_rows(job, TX_ACT_TANH, bf16); break;
    case TX_ACT_QUICK_GELU: gated_rows(job, TX_ACT_QUICK_GELU, bf16); break;
    case TX_ACT_RELU: gated_rows(job, TX_ACT_RELU, bf16); break;
    default: gated_rows(job, TX_ACT_NONE, bf16); break;
    }
}

void txk_gated_f32_neon(const struct tx_gated *job)
{
    gated(job, 0);
}

void txk_gated_bf16_neon(const struct tx_gated *job)
{
    gated(job, 1);
}
