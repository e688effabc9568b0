/* float32 or bfloat16 rows -> bfloat16, or int8 with a scale a row, zero padded to tx_k_padded(K), 16 elements at a time. The float32
 * operations are those of quantize_ref.c, so the integers and scales are the same to the bit. */
#include "kernels_low_avx512.h"
#include "simd_low_avx512.h"

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

TXK_INLINE __m512 element_f32x16(const void *x, size_t k, size_t K, const int from_bf16)
{
    return from_bf16 ? f32_of_bf16x16(_mm256_maskz_loadu_epi16(lanes_at(k, K), (const uint16_t *)x + k))
                     : _mm512_maskz_loadu_ps(lanes_at(k, K), (const float *)x + k);
}

TXK_INLINE float quantize_row(int8_t *out, const void *x, size_t K, const int from_bf16)
{
    __m512 max[4];
    for (int j = 0; j < 4; j++)
        max[j] = _mm512_setzero_ps();
    for (size_t k = 0; k < K; k += 64)
        for (size_t j = 0; j < 4; j++)
            max[j] = max_magnitude_f32x16(max[j], element_f32x16(x, k + 16 * j, K, from_bf16));
    for (int j = 1; j < 4; j++)
        max[0] = max_magnitude_f32x16(max[0], max[j]);
    const struct low_scale s = scale_of_max(max[0]);
    const __m512 factor = _mm512_set1_ps(s.factor);
    for (size_t k = 0; k < tx_k_padded(K); k += 16)
        _mm_storeu_si128((__m128i *)(out + k), quantize_f32x16(element_f32x16(x, k, K, from_bf16), factor));
    return s.scale;
}

void txk_quantize_int8_avx512(int8_t *out, size_t ldo, float *scale, const void *x, int from_bf16, size_t ldx, size_t M, size_t K)
{
    for (size_t m = 0; m < M; m++, out += ldo)
        scale[m] = from_bf16 ? quantize_row(out, (const uint16_t *)x + m * ldx, K, 1) : quantize_row(out, (const float *)x + m * ldx, K, 0);
}
