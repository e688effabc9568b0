/* float32 or bfloat16 rows -> bfloat16, or int8 with a scale a row, zero padded to tx_k_padded(K), a vector at a time. The
 * float32 operations are those of ref/quantize.c, so the integers and scales are the same to the bit. */
#include <string.h>

#include "row.h"
#include "simd_narrow.h"

static __mmask16 lanes_at(size_t k, size_t K)
{
    return k < K ? lanes_f32x16(K - k) : 0;
}

void txk_round_bf16_avx512(uint16_t *out, size_t ldo, const float *x, size_t ldx, size_t M, size_t K)
{
    for (size_t m = 0; m < M; m++, out += ldo, x += ldx)
        for (size_t k = 0; k < tx_k_padded(K); k += 16)
            _mm256_storeu_si256((__m256i *)(out + k), bf16_of_f32x16(_mm512_maskz_loadu_ps(lanes_at(k, K), x + k)));
}

/* 32 elements of bfloat16, zeros behind K; those at even and at odd places are floats after a shift, or without their lower
 * half. */
TXK_INLINE __m512i bf16x32(const uint16_t *x, size_t k, size_t K)
{
    return k + 32 <= K ? _mm512_loadu_si512(x + k)
                       : _mm512_maskz_loadu_epi16(k < K ? (__mmask32)((1ull << (K - k)) - 1) : 0, x + k);
}

/* Magnitudes of bfloat16 are ordered as integers, as those of float32 are: see max_magnitude_f32x16. */
static __m512 max_of_bf16(const uint16_t *x, size_t K)
{
    const __m512i magnitude = _mm512_set1_epi16(0x7fff);
    __m512i max[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (size_t k = 0; k < K; k += 64) {
        max[0] = _mm512_max_epu16(max[0], _mm512_and_si512(bf16x32(x, k, K), magnitude));
        max[1] = _mm512_max_epu16(max[1], _mm512_and_si512(bf16x32(x, k + 32, K), magnitude));
    }
    max[0] = _mm512_max_epu16(max[0], max[1]);
    const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(max[0], 16));
    return max_magnitude_f32x16(even, _mm512_castsi512_ps(_mm512_and_si512(max[0], _mm512_set1_epi32((int)0xffff0000))));
}

static __m512 max_of_f32(const float *x, size_t K)
{
    __m512 max[4];
    size_t k = 0;
    for (int j = 0; j < 4; j++)
        max[j] = _mm512_setzero_ps();
    for (; k + 64 <= K; k += 64)
        for (size_t j = 0; j < 4; j++)
            max[j] = max_magnitude_f32x16(max[j], _mm512_loadu_ps(x + k + 16 * j));
    for (; k < K; k += 16)
        max[0] = max_magnitude_f32x16(max[0], _mm512_maskz_loadu_ps(lanes_at(k, K), x + k));
    return max_magnitude_f32x16(max_magnitude_f32x16(max[0], max[1]), max_magnitude_f32x16(max[2], max[3]));
}

static float quantize_bf16_row(int8_t *out, const uint16_t *x, size_t K)
{
    const struct row_scale s = scale_of_max(max_of_bf16(x, K));
    const __m512 factor = _mm512_set1_ps(s.factor);
    if (s.factor == 0) {
        memset(out, 0, tx_k_padded(K));
        return s.scale;
    }
    for (size_t k = 0; k < tx_k_padded(K); k += 32) {
        const __m512i pairs = bf16x32(x, k, K);
        const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
        const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
        const __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(even, factor)),
                      high = _mm512_cvtps_epi32(_mm512_mul_ps(odd, factor));
        const __m512i both = _mm512_mask_blend_epi16(0xaaaaaaaau, low, _mm512_slli_epi32(high, 16));
        _mm256_storeu_si256((__m256i *)(out + k), _mm512_cvtepi16_epi8(both));
    }
    return s.scale;
}

static float quantize_f32_row(int8_t *out, const float *x, size_t K)
{
    const struct row_scale s = scale_of_max(max_of_f32(x, K));
    const __m512 factor = _mm512_set1_ps(s.factor);
    size_t k = 0;
    if (s.factor == 0) {
        memset(out, 0, tx_k_padded(K));
        return s.scale;
    }
    for (; k + 16 <= K; k += 16)
        _mm_storeu_si128((__m128i *)(out + k),
                         _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + k), factor))));
    for (; k < tx_k_padded(K); k += 16)
        _mm_storeu_si128((__m128i *)(out + k), quantize_f32x16(_mm512_maskz_loadu_ps(lanes_at(k, K), x + k), factor));
    return s.scale;
}

void txk_quantize_int8_avx512(int8_t *out, size_t ldo, float *scale, const void *x, int from_bf16, size_t ldx, size_t M,
                              size_t K)
{
    for (size_t m = 0; m < M; m++, out += ldo)
        scale[m] = from_bf16 ? quantize_bf16_row(out, (const uint16_t *)x + m * ldx, K)
                             : quantize_f32_row(out, (const float *)x + m * ldx, K);
}
