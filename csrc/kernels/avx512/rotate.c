/* Rotary positions, 8 pairs at a time: the product with the cosines minus or plus the swapped pair's with the sines. */
#include "row.h"
#include "simd_narrow.h"

TXK_INLINE __m512 turned_f32x16(__m512 x, __m512 turns)
{
    const __m512 cosines = _mm512_moveldup_ps(turns), sines = _mm512_movehdup_ps(turns);
    return _mm512_fmaddsub_ps(x, cosines, _mm512_mul_ps(_mm512_permute_ps(x, 0xb1), sines));
}

void txk_rotate_f32_avx512(float *x, size_t ldx, const float *turns, size_t ldt, size_t M, size_t n)
{
    for (size_t m = 0; m < M; m++, x += ldx, turns += ldt)
        for (size_t i = 0; i < n; i += 16) {
            const __mmask16 lanes = n - i >= 16 ? 0xffff : (__mmask16)((1u << (n - i)) - 1);
            const __m512 result = turned_f32x16(_mm512_maskz_loadu_ps(lanes, x + i), _mm512_maskz_loadu_ps(lanes, turns + i));
            _mm512_mask_storeu_ps(x + i, lanes, result);
        }
}

void txk_rotate_bf16_avx512(uint16_t *x, size_t ldx, const float *turns, size_t ldt, size_t M, size_t n)
{
    for (size_t m = 0; m < M; m++, x += ldx, turns += ldt)
        for (size_t i = 0; i < n; i += 16) {
            const __mmask16 lanes = n - i >= 16 ? 0xffff : (__mmask16)((1u << (n - i)) - 1);
            const __m512 result = turned_f32x16(f32_of_bf16x16(_mm256_maskz_loadu_epi16(lanes, x + i)),
                                                _mm512_maskz_loadu_ps(lanes, turns + i));
            _mm256_mask_storeu_epi16(x + i, lanes, bf16_of_f32x16(result));
        }
}
