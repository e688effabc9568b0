/* bfloat16 and int8 in AVX-512 (F, BW, DQ, VL): conversions, a row's scale, and the transposition that packing is made of.
 * Static inline functions only: nothing here runs before the CPU check. */
#ifndef TXK_AVX512_SIMD_NARROW_H
#define TXK_AVX512_SIMD_NARROW_H

#include "simd.h"

/* Fetches a line that will be written. */
static inline void prefetch_to_write(const void *line)
{
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)line));
}

TXK_INLINE __m512 f32_of_bf16x16(__m256i x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

/* To nearest even; NaN stays NaN. */
TXK_INLINE __m256i bf16_of_f32x16(__m512 x)
{
#ifdef __AVX512BF16__
    return (__m256i)_mm512_cvtneps_pbh(x);
#else
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#endif
}

TXK_INLINE __m512i bf16_of_f32x32(__m512 low, __m512 high)
{
#ifdef __AVX512BF16__
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
#else
    return _mm512_inserti64x4(_mm512_castsi256_si512(bf16_of_f32x16(low)), bf16_of_f32x16(high), 1);
#endif
}

/* Turns row i of 16 dwords into column i. */
TXK_INLINE void transpose_32x16x16(__m512i r[16])
{
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    /* Now in each 128-bit quarter q: r[4 i + j] = elements 4 q + j of rows 4 i .. 4 i + 3. */
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    /* The quarters themselves are a 4 x 4 matrix for each j. */
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512i even_low = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88),
                      odd_low = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        const __m512i even_high = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88),
                      odd_high = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
        t[j] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
        t[8 + j] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
        t[4 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
        t[12 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        r[i] = t[i];
}

/* The running maximum of |x|; a NaN counts as Inf. */
TXK_INLINE __m512 max_magnitude_f32x16(__m512 max, __m512 x)
{
    /* As integers, magnitudes are ordered as the floats are, and NaNs come behind Inf. */
    const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(max), magnitude));
}

struct row_scale {
    float scale, factor;    /* factor 0: the row is zeros */
};

/* The scale of a row whose magnitudes max_magnitude_f32x16 has seen. */
TXK_INLINE struct row_scale scale_of_max(__m512 maxima)
{
    const float max = _mm512_reduce_max_ps(maxima);
    const int whole = _mm512_cmp_ps_mask(maxima, _mm512_set1_ps(3.4028235e38f), _CMP_NLE_UQ) == 0;
    if (!whole)
        return (struct row_scale){__builtin_nanf(""), 0};
    if (max < 0x1p-100f)
        return (struct row_scale){1, 0};
    return (struct row_scale){max / 127.0f, 127.0f / max};
}

/* Where factor is 0, x may be anything and gives 0: the conversion of NaN is taken back by the mask. */
TXK_INLINE __m128i quantize_f32x16(__m512 x, __m512 factor)
{
    const __mmask16 some = _mm512_cmp_ps_mask(factor, _mm512_setzero_ps(), _CMP_NEQ_OQ);
    return _mm512_cvtepi32_epi8(_mm512_maskz_cvtps_epi32(some, _mm512_mul_ps(x, factor)));
}

#endif
