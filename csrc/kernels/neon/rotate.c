/* Rotary positions, 2 pairs at a time: the product with the cosines minus or plus the swapped pair's with the sines. */
#include "row.h"
#include "simd.h"

TXK_INLINE float32x4_t turned_f32x4(float32x4_t x, float32x4_t turns)
{
    static const float signs[4] = {-1, 1, -1, 1};
    const float32x4_t cosines = vtrn1q_f32(turns, turns), sines = vtrn2q_f32(turns, turns);
    return fma_f32x4(x, cosines, vmulq_f32(vmulq_f32(vrev64q_f32(x), sines), vld1q_f32(signs)));
}

void txk_rotate_f32_neon(float *x, size_t ldx, const float *turns, size_t ldt, size_t M, size_t n)
{
    for (size_t m = 0; m < M; m++, x += ldx, turns += ldt)
        for (size_t i = 0; i < n; i += 4)
            store_f32x4(x + i, n - i, turned_f32x4(load_f32x4(x + i, n - i), load_f32x4(turns + i, n - i)));
}

void txk_rotate_bf16_neon(uint16_t *x, size_t ldx, const float *turns, size_t ldt, size_t M, size_t n)
{
    for (size_t m = 0; m < M; m++, x += ldx, turns += ldt)
        for (size_t i = 0; i < n; i += 4)
            store_bf16x4(x + i, n - i, turned_f32x4(load_bf16x4(x + i, n - i), load_f32x4(turns + i, n - i)));
}
