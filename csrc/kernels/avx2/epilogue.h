/* Where in an epilogue's matrices a block of the product lies. For the gemms, which call the epilogue a tile at a time. */
#ifndef TXK_AVX2_EPILOGUE_H
#define TXK_AVX2_EPILOGUE_H

#include "../kernels.h"

/* The epilogue for the block of out that starts at (m, n). */
static inline struct tx_epilogue_f32 epilogue_at(const struct tx_epilogue_f32 *whole, size_t m, size_t n)
{
    struct tx_epilogue_f32 e = *whole;
    if (e.bias)
        e.bias += n;
    if (e.residual)
        e.residual += m * e.ldr + n;
    if (e.gate)
        e.gate += n;
    if (e.group)
        e.group += m;
    return e;
}

/* What the epilogue of a tile of 16 columns will touch, on its way while the sums are made: `out` is its corner, rows ldo bytes
 * apart. A row's columns may straddle two lines; the second one is the first of the next panel. */
static inline void prefetch_out(const void *out, size_t ldo, const struct tx_epilogue_f32 *whole, size_t m, size_t rows,
                                size_t n)
{
    for (size_t i = 0; i < rows; i++) {
        __builtin_prefetch((const char *)out + i * ldo, 1);
        if (whole->residual)
            __builtin_prefetch(whole->residual + (m + i) * whole->ldr + n, 0);
    }
}

#endif
