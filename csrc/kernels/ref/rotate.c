/* Rotary positions, pair by pair. */
#include "row.h"

void txk_rotate_f32_ref(float *x, size_t ldx, const float *turns, size_t ldt, size_t M, size_t n)
{
    for (size_t m = 0; m < M; m++, x += ldx, turns += ldt)
        for (size_t i = 0; i < n; i += 2) {
            const float a = x[i], b = x[i + 1], c = turns[i], s = turns[i + 1];
            x[i] = a * c - b * s;
            x[i + 1] = a * s + b * c;
        }
}

void txk_rotate_bf16_ref(uint16_t *x, size_t ldx, const float *turns, size_t ldt, size_t M, size_t n)
{
    for (size_t m = 0; m < M; m++, x += ldx, turns += ldt)
        for (size_t i = 0; i < n; i += 2) {
            const float a = tx_float_of_bf16(x[i]), b = tx_float_of_bf16(x[i + 1]), c = turns[i], s = turns[i + 1];
            x[i] = tx_bf16_of_float(a * c - b * s);
            x[i + 1] = tx_bf16_of_float(a * s + b * c);
        }
}
