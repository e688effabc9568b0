/* The epilogue of a low-precision product, row by row of a block of 32 columns of sums that lies in L1: int8 sums get their
 * scales, then bias, activation, residual and gate, then float32 or bfloat16 is stored, with the last columns masked. It is an
 * object that can be worked off a few rows at a time between other work. */
#ifndef TXK_AVX512_EPILOGUE_NARROW_H
#define TXK_AVX512_EPILOGUE_NARROW_H

#include "simd_narrow.h"

struct narrow_rows {
    const struct tx_gemm_narrow *job;
    void (*run)(struct narrow_rows *rows, size_t count);
    const void *c;          /* [left, 32] float32 or int32 sums, 64-byte aligned */
    size_t m, n;            /* where in out the next row begins */
    size_t left;            /* rows */
    __mmask16 lanes[2];
};

TXK_INLINE void narrow_rows_run(struct narrow_rows *rows, size_t count, const int act, const int int8)
{
    const struct tx_gemm_narrow *job = rows->job;
    const struct tx_epilogue_f32 *e = &job->epilogue;
    const size_t n = rows->n;
    const char *c = rows->c;
    for (size_t m = rows->m; m < rows->m + count; m++, c += 32 * sizeof(float)) {
        const float *residual = e->residual ? e->residual + m * e->ldr + n : NULL;
        const float *gate = residual && e->gate ? e->gate + (e->group ? (size_t)e->group[m] : 0) * e->ldg + n : NULL;
        __m512 both[2];
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            const __mmask16 lanes = rows->lanes[j];
            __m512 y;
            if (int8) {
                const __m512 scale =
                    _mm512_mul_ps(_mm512_set1_ps(job->a_scale[m]), _mm512_maskz_loadu_ps(lanes, job->w_scale + n + 16 * j));
                y = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(c + 64 * j)), scale);
            } else {
                y = _mm512_load_ps(c + 64 * j);
            }
            if (e->bias)
                y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(lanes, e->bias + n + 16 * j));
            y = activate_f32x16(y, act);
            if (residual) {
                const __m512 r = _mm512_maskz_loadu_ps(lanes, residual + 16 * j);
                y = gate ? _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, gate + 16 * j), y, r) : _mm512_add_ps(r, y);
            }
            both[j] = y;
        }
        if (job->out_bf16) {
            const __mmask32 lanes = (__mmask32)rows->lanes[1] << 16 | rows->lanes[0];
            _mm512_mask_storeu_epi16((uint16_t *)job->out + m * job->ldo + n, lanes, bf16_of_f32x32(both[0], both[1]));
        } else {
            _mm512_mask_storeu_ps((float *)job->out + m * job->ldo + n, rows->lanes[0], both[0]);
            _mm512_mask_storeu_ps((float *)job->out + m * job->ldo + n + 16, rows->lanes[1], both[1]);
        }
    }
    rows->c = c;
    rows->m += count;
    rows->left -= count;
}

/* One function an activation: `int8` of the including file's product. */
#define NARROW_ROWS(name, act, int8) \
    static void narrow_rows_##name(struct narrow_rows *r, size_t count) { narrow_rows_run(r, count, act, int8); }
#define NARROW_ROWS_FUNCTIONS(int8)                                                                            \
    NARROW_ROWS(none_act, TX_ACT_NONE, int8)                                                                   \
    NARROW_ROWS(gelu_erf, TX_ACT_GELU_ERF, int8)                                                               \
    NARROW_ROWS(gelu_tanh, TX_ACT_GELU_TANH, int8)                                                             \
    NARROW_ROWS(silu, TX_ACT_SILU, int8)                                                                       \
    NARROW_ROWS(tanh, TX_ACT_TANH, int8)                                                                       \
    NARROW_ROWS(quick_gelu, TX_ACT_QUICK_GELU, int8)                                                           \
    NARROW_ROWS(relu, TX_ACT_RELU, int8)                                                                       \
    static void (*const narrow_rows_of_act[TX_ACT_COUNT])(struct narrow_rows *, size_t) = {                    \
        narrow_rows_none_act, narrow_rows_gelu_erf, narrow_rows_gelu_tanh, narrow_rows_silu, narrow_rows_tanh, \
        narrow_rows_quick_gelu, narrow_rows_relu,                                                              \
    };

TXK_INLINE void narrow_rows_start(struct narrow_rows *rows, const void *c, size_t m, size_t count, size_t n)
{
    const size_t columns = rows->job->n1 - n;
    rows->c = c;
    rows->m = m;
    rows->n = n;
    rows->left = count;
    rows->lanes[0] = lanes_f32x16(columns);
    rows->lanes[1] = columns > 16 ? lanes_f32x16(columns - 16) : 0;
}

TXK_INLINE void narrow_rows_next(struct narrow_rows *rows, size_t count)
{
    count = count < rows->left ? count : rows->left;
    if (count)
        rows->run(rows, count);
}

#endif
