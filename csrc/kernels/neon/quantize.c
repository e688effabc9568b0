/* float32 or bfloat16 rows -> bfloat16, or int8 with a scale a row, zero padded to tx_k_padded(K), 16 elements at a time (the
 * padding is a multiple of 64, so only loads have tails). Two passes over a row: the largest magnitude, then the integers; the
 * same as the reference's, bit for bit. */
#include "row.h"
#include "quantize.h"

void txk_round_bf16_neon(uint16_t *out, size_t ldo, const float *x, size_t ldx, size_t M, size_t K)
{
    for (size_t m = 0; m < M; m++, out += ldo, x += ldx)
        for (size_t k = 0; k < tx_k_padded(K); k += 4)
            store_bf16x4(out + k, 4, k < K ? load_f32x4(x + k, K - k) : vdupq_n_f32(0));
}

/* Elements k.. of a row of K, 0 past it. */
TXK_INLINE float32x4_t at(const void *row, size_t k, size_t K, const int from_bf16)
{
    if (k >= K)
        return vdupq_n_f32(0);
    return from_bf16 ? load_bf16x4((const uint16_t *)row + k, K - k) : load_f32x4((const float *)row + k, K - k);
}

TXK_INLINE float quantize_row(int8_t *out, const void *row, size_t K, const int from_bf16)
{
    const size_t Kp = tx_k_padded(K);
    uint32x4_t max[4] = {vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)};
    for (size_t k = 0; k < K; k += 16)
        for (size_t j = 0; j < 4; j++)
            max[j] = max_magnitude(max[j], at(row, k + 4 * j, K, from_bf16));
    const struct row_scale s =
        scale_of_max(vmaxq_u32(vmaxq_u32(max[0], max[1]), vmaxq_u32(max[2], max[3])));
    if (s.factor == 0) {
        memset(out, 0, Kp);
        return s.scale;
    }
    for (size_t k = 0; k < Kp; k += 16) {
        float32x4_t x[4];
        for (size_t j = 0; j < 4; j++)
            x[j] = at(row, k + 4 * j, K, from_bf16);
        store_int8x16(out + k, x, s.factor);
    }
    return s.scale;
}

void txk_quantize_int8_neon(int8_t *out, size_t ldo, float *scale, const void *x, int from_bf16, size_t ldx, size_t M, size_t K)
{
    for (size_t m = 0; m < M; m++)
        scale[m] = from_bf16 ? quantize_row(out + m * ldo, (const uint16_t *)x + m * ldx, K, 1)
                             : quantize_row(out + m * ldo, (const float *)x + m * ldx, K, 0);
}
