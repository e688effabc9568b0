/* Where in an epilogue's matrices a block of the product lies. For the gemms, which call the epilogue a tile at a time. */
#ifndef TXK_NEON_EPILOGUE_H
#define TXK_NEON_EPILOGUE_H

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

#endif
