/* The epilogue of a product: y = act(acc + bias), then residual + gate y. One element at a time; kernels.h has the formula. */
#include "row.h"

float txk_epilogue_one_ref(float acc, size_t m, size_t n, const struct tx_epilogue_f32 *e)
{
    const float y = txk_activate_one_ref(e->bias ? acc + e->bias[n] : acc, e->act);
    if (!e->residual)
        return y;
    const size_t group = e->group ? (size_t)e->group[m] : 0;
    const float gated = e->gate ? e->gate[group * e->ldg + n] * y : y;
    return e->residual[m * e->ldr + n] + gated;
}

void txk_epilogue_f32_ref(float *out, size_t ldo, const float *acc, size_t ldacc, size_t M, size_t N,
                          const struct tx_epilogue_f32 *epilogue)
{
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++)
            out[m * ldo + n] = txk_epilogue_one_ref(acc[m * ldacc + n], m, n, epilogue);
}
