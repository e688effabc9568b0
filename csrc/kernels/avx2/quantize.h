/* From float32 vectors to rows of bfloat16 or int8: for round_bf16, quantize_int8 and the norms that end in them. */
#ifndef TXK_AVX2_QUANTIZE_H
#define TXK_AVX2_QUANTIZE_H

#include <math.h>

#include "simd.h"

/* The float32 operations are those of ref/quantize.c, so that the integers are the same everywhere. */
struct row_scale {
    float scale, factor;        /* factor 0: a row of zeros */
};

/* max: the largest bit pattern of a magnitude; Inf and NaN are above all numbers. */
TXK_INLINE __m256i max_magnitude(__m256i max, __m256 x)
{
    return _mm256_max_epi32(max, _mm256_castps_si256(abs_f32x8(x)));
}

TXK_INLINE struct row_scale scale_of_largest(float largest)
{
    if (!(largest < INFINITY))
        return (struct row_scale){NAN, 0};
    if (largest < 0x1p-100f)
        return (struct row_scale){1, 0};
    return (struct row_scale){largest / 127.0f, 127.0f / largest};
}

TXK_INLINE struct row_scale scale_of_max(__m256i max)
{
    int32_t bits[8], most = 0;
    float largest;
    _mm256_storeu_si256((__m256i *)bits, max);
    for (int i = 0; i < 8; i++)
        most = bits[i] > most ? bits[i] : most;
    memcpy(&largest, &most, sizeof largest);
    return scale_of_largest(largest);
}

/* 32 elements to int8, nearest even; their magnitudes are at most 127 by the choice of factor. */
TXK_INLINE __m256i int8x32(const __m256 x[4], float factor)
{
    const __m256 f = _mm256_set1_ps(factor);
    __m256i q[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
        q[j] = _mm256_cvtps_epi32(_mm256_mul_ps(x[j], f));
    /* Packing works in halves of vectors: the quarters come out in the order 0 2 4 6 1 3 5 7. */
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

TXK_INLINE void store_int8x32(int8_t *out, const __m256 x[4], float factor)
{
    _mm256_storeu_si256((__m256i *)out, int8x32(x, factor));
}

#endif
