/* Rotary positions, 4 pairs at a time: the product with the cosines minus or plus the swapped pair's with the sines. */
#include "row.h"
#include "simd.h"

TXK_INLINE __m256 turned_f32x8(__m256 x, __m256 turns)
{
    const __m256 cosines = _mm256_moveldup_ps(turns), sines = _mm256_movehdup_ps(turns);
    return _mm256_fmaddsub_ps(x, cosines, _mm256_mul_ps(_mm256_permute_ps(x, 0xb1), sines));
}

void txk_rotate_f32_avx2(float *x, size_t ldx, const float *turns, size_t ldt, size_t M, size_t n)
{
    for (size_t m = 0; m < M; m++, x += ldx, turns += ldt)
        for (size_t i = 0; i < n; i += 8)
            store_f32x8(x + i, n - i, turned_f32x8(load_f32x8(x + i, n - i), load_f32x8(turns + i, n - i)));
}

void txk_rotate_bf16_avx2(uint16_t *x, size_t ldx, const float *turns, size_t ldt, size_t M, size_t n)
{
    for (size_t m = 0; m < M; m++, x += ldx, turns += ldt)
        for (size_t i = 0; i < n; i += 8)
            store_bf16x8(x + i, n - i, turned_f32x8(load_bf16x8(x + i, n - i), load_f32x8(turns + i, n - i)));
}
