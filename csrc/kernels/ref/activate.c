/* Activations by libm, in double, rounded once. GELU (erf) is x Phi(x) with Phi by erfc: 1 + erf would cancel for negative x.
 * Large |x| give the limits (0 or x) and not 0 * inf; NaN stays NaN. */
#include "row.h"

#include <math.h>

/* x / (1 + e^-x) with the limit 0 at -inf, where the formula would give -inf / inf. */
static double x_sigmoid(double x, double of)
{
    const double s = 1.0 / (1.0 + exp(-of));
    return s == 0 ? 0.0 : x * s;
}

float txk_activate_one_ref(float value, int act)
{
    const double x = value;
    switch (act) {
    case TX_ACT_GELU_ERF: {
        const double phi = 0.5 * erfc(-x * 0.70710678118654752440);
        return phi == 0 ? 0.0f : (float)(x * phi);
    }
    case TX_ACT_GELU_TANH:
        /* (1 + tanh u) / 2 = sigmoid(2u), again without the cancellation; 2 sqrt(2/pi) = 1.5957691216057308. */
        return (float)x_sigmoid(x, 1.5957691216057308 * (x + 0.044715 * x * x * x));
    case TX_ACT_SILU:
        return (float)x_sigmoid(x, x);
    case TX_ACT_TANH:
        return (float)tanh(x);
    case TX_ACT_QUICK_GELU:
        return (float)x_sigmoid(x, 1.702 * x);
    case TX_ACT_RELU:
        return x > 0 || x != x ? value : 0.0f;
    default:
        return value;
    }
}

void txk_activate_f32_ref(float *out, const float *x, size_t n, int act)
{
    for (size_t i = 0; i < n; i++)
        out[i] = txk_activate_one_ref(x[i], act);
}
