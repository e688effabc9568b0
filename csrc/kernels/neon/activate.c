/* out = act(x), 4 elements at a time; the functions and their errors are in simd.h. out may be x. */
#include "row.h"
#include "simd.h"

TXK_INLINE void activate(float *out, const float *x, size_t n, int act)
{
    for (size_t i = 0; i < n; i += 4)
        store_f32x4(out + i, n - i, activate_f32x4(load_f32x4(x + i, n - i), act));
}

void txk_activate_f32_neon(float *out, const float *x, size_t n, int act)
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
