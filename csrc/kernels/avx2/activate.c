/* out = act(x), 8 elements at a time with a masked tail; the functions and their errors are in simd.h. out may be x. */
#include "row.h"
#include "simd.h"

TXK_INLINE void activate(float *out, const float *x, size_t n, int act)
{
    for (size_t i = 0; i < n; i += 8)
        store_f32x8(out + i, n - i, activate_f32x8(load_f32x8(x + i, n - i), act));
}

void txk_activate_f32_avx2(float *out, const float *x, size_t n, int act)
{
    switch (act) {
    case TX_ACT_GELU_ERF: activate(out, x, n, TX_ACT_GELU_ERF); break;
    case TX_ACT_GELU_TANH: activate(out, x, n, TX_ACT_GELU_TANH); break;
    case TX_ACT_SILU: activate(out, x, n, TX_ACT_SILU); break;
    case TX_ACT_TANH: activate(out, x, n, TX_ACT_TANH); break;
    case TX_ACT_QUICK_GELU: activate(out, x, n, TX_ACT_QUICK_GELU); break;
    case TX_ACT_RELU: activate(out, x, n, TX_ACT_RELU); break;
    default: activate(out, x, n, TX_ACT_NONE); break;
    }
}
