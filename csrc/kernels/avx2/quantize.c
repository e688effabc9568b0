/* float32 or bfloat16 rows -> bfloat16, or int8 with a scale a row, zero padded to tx_k_padded(K), 32 elements at a time (the
 * padding is a multiple of 64, so only loads have tails). Two passes over a row: the largest magnitude, then the integers; the
 * same as the reference's, bit for bit. */
#include "row.h"
#include "quantize.h"

void txk_round_bf16_avx2(uint16_t *out, size_t ldo, const float *x, size_t ldx, size_t M, size_t K)
{
    for (size_t m = 0; m < M; m++, out += ldo, x += ldx)
        for (size_t k = 0; k < tx_k_padded(K); k += 8)
            store_bf16x8(out + k, 8, k < K ? load_f32x8(x + k, K - k) : _mm256_setzero_ps());
}

/* Elements k.. of a row of K, 0 past it. */
TXK_INLINE __m256 at(const void *row, size_t k, size_t K, const int from_bf16)
{
    if (k >= K)
        return _mm256_setzero_ps();
    return from_bf16 ? load_bf16x8((const uint16_t *)row + k, K - k) : load_f32x8((const float *)row + k, K - k);
}

TXK_INLINE float quantize_row(int8_t *out, const void *row, size_t K, const int from_bf16)
{
    const size_t Kp = tx_k_padded(K);
    __m256i max[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (size_t k = 0; k < K; k += 32)
        for (size_t j = 0; j < 4; j++)
            max[j] = max_magnitude(max[j], at(row, k + 8 * j, K, from_bf16));
    const struct row_scale s =
        scale_of_max(_mm256_max_epi32(_mm256_max_epi32(max[0], max[1]), _mm256_max_epi32(max[2], max[3])));
    if (s.factor == 0) {
        memset(out, 0, Kp);
        return s.scale;
    }
    for (size_t k = 0; k < Kp; k += 32) {
        __m256 x[4];
        for (size_t j = 0; j < 4; j++)
            x[j] = at(row, k + 8 * j, K, from_bf16);
        store_int8x32(out + k, x, s.factor);
    }
    return s.scale;
}

void txk_quantize_int8_avx2(int8_t *out, size_t ldo, float *scale, const void *x, int from_bf16, size_t ldx, size_t M, size_t K)
{
    for (size_t m = 0; m < M; m++)
        scale[m] = from_bf16 ? quantize_row(out + m * ldo, (const uint16_t *)x + m * ldx, K, 1)
                             : quantize_row(out + m * ldo, (const float *)x + m * ldx, K, 0);
}
