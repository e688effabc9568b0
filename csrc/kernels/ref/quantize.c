/* float32 or bfloat16 rows -> bfloat16, or int8 with a scale a row, zero padded to tx_k_padded(K). kernels.h has the
 * definition; the float32 operations here (one division for the scale, one for the factor, one product an element) are what
 * every row repeats, so that the integers are the same everywhere. */
#include "row.h"

#include <math.h>

float txk_max_magnitude_ref(float max, float x)
{
    const float magnitude = fabsf(x);
    return magnitude > max ? magnitude : magnitude <= max ? max : INFINITY;
}

struct txk_scale_ref txk_scale_of_max_ref(float max)
{
    if (max > 3.4028235e38f)
        return (struct txk_scale_ref){NAN, 0};
    if (max < 0x1p-100f) /* 127 / max would overflow not far below */
        return (struct txk_scale_ref){1, 0};
    return (struct txk_scale_ref){max / 127.0f, 127.0f / max};
}

int8_t txk_quantize_one_ref(float x, float factor)
{
    /* A factor of 0 stands for a row of zeros, also where x is Inf or NaN. */
    return factor == 0 ? 0 : (int8_t)rintf(x * factor);
}

void txk_round_bf16_ref(uint16_t *out, size_t ldo, const float *x, size_t ldx, size_t M, size_t K)
{
    for (size_t m = 0; m < M; m++, out += ldo, x += ldx)
        for (size_t k = 0; k < tx_k_padded(K); k++)
            out[k] = k < K ? tx_bf16_of_float(x[k]) : 0;
}

static float element(const void *x, int from_bf16, size_t i)
{
    return from_bf16 ? tx_float_of_bf16(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

void txk_quantize_int8_ref(int8_t *out, size_t ldo, float *scale, const void *x, int from_bf16, size_t ldx, size_t M, size_t K)
{
    for (size_t m = 0; m < M; m++, out += ldo) {
        float max = 0;
        for (size_t k = 0; k < K; k++)
            max = txk_max_magnitude_ref(max, element(x, from_bf16, m * ldx + k));
        const struct txk_scale_ref s = txk_scale_of_max_ref(max);
        scale[m] = s.scale;
        for (size_t k = 0; k < tx_k_padded(K); k++)
            out[k] = k < K ? txk_quantize_one_ref(element(x, from_bf16, m * ldx + k), s.factor) : 0;
    }
}
