/* The epilogue of a product, row by row, 16 columns at a time with a masked tail: y = act(acc + bias), then residual + gate y.
 * Used on the tiles of gemm_f32.c while they lie in L1, and alone on the output of a BLAS. acc, out and residual may be one
 * matrix: each element is read before it is written. */
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
        for (size_t n = 0; n < N; n += 16) {
            const __mmask16 lanes = lanes_f32x16(N - n);
            __m512 y = _mm512_maskz_loadu_ps(lanes, acc_row + n);
            if (e->bias)
                y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(lanes, e->bias + n));
            y = activate_f32x16(y, act);
            if (residual) {
                const __m512 r = _mm512_maskz_loadu_ps(lanes, residual + n);
                y = gate ? _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, gate + n), y, r) : _mm512_add_ps(r, y);
            }
            _mm512_mask_storeu_ps(out_row + n, lanes, y);
        }
    }
}

void txk_epilogue_f32_avx512(float *out, size_t ldo, const float *acc, size_t ldacc, size_t M, size_t N,
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
