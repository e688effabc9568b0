/* The epilogue of a product, row by row, 4 columns at a time: y = act(acc + bias), then residual + gate y. Used on the strips
 * of the gemms while they lie in L1, and alone on the output of a BLAS. acc, out and residual may be one matrix: each element
 * is read before it is written. */
#include "row.h"
#include "simd.h"

TXK_INLINE void rows(float *out, size_t ldo, const float *acc, size_t ldacc, size_t M, size_t N,
                     const struct tx_epilogue_f32 *e, int act)
{
    for (size_t m = 0; m < M; m++) {
        const float *acc_row = acc + m * ldacc, *gate = NULL, *residual = NULL;
        float *out_row = out + m * ldo;
        if (e->residual) {
            residual = e->residual + m * e->ldr;
            if (e->gate)
                gate = e->gate + (e->group ? (size_t)e->group[m] : 0) * e->ldg;
        }
        for (size_t n = 0; n < N; n += 4) {
            const size_t left = N - n;
            float32x4_t y = load_f32x4(acc_row + n, left);
            if (e->bias)
                y = vaddq_f32(y, load_f32x4(e->bias + n, left));
            y = activate_f32x4(y, act);
            if (residual) {
                const float32x4_t r = load_f32x4(residual + n, left);
                y = gate ? fma_f32x4(load_f32x4(gate + n, left), y, r) : vaddq_f32(r, y);
            }
            store_f32x4(out_row + n, left, y);
        }
    }
}

void txk_epilogue_f32_neon(float *out, size_t ldo, const float *acc, size_t ldacc, size_t M, size_t N,
                           const struct tx_epilogue_f32 *epilogue)
{
    switch (epilogue->act) {
    case TX_ACT_GELU_ERF: rows(out, ldo, acc, ldacc, M, N, epilogue, TX_ACT_GELU_ERF); break;
    case TX_ACT_GELU_TANH: rows(out, ldo, acc, ldacc, M, N, epilogue, TX_ACT_GELU_TANH); break;
    case TX_ACT_SILU: rows(out, ldo, acc, ldacc, M, N, epilogue, TX_ACT_SILU); break;
    case TX_ACT_TANH: rows(out, ldo, acc, ldacc, M, N, epilogue, TX_ACT_TANH); break;
    case TX_ACT_QUICK_GELU: rows(out, ldo, acc, ldacc, M, N, epilogue, TX_ACT_QUICK_GELU); break;
    case TX_ACT_RELU: rows(out, ldo, acc, ldacc, M, N, epilogue, TX_ACT_RELU); break;
    default: rows(out, ldo, acc, ldacc, M, N, epilogue, TX_ACT_NONE); break;
    }
}
