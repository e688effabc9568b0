/* Vector mathematics of the AVX2 row: masked tails, sums, exp, and the activations, on 8 floats.
 *
 * Errors were measured against float64; ulp is of the exact result. NaN passes through everywhere, and no argument, however
 * large, gives NaN where the function has a limit. AVX2 has no mask registers: a mask is a vector, and only tails pay for it.
 * Static inline functions and const data only: nothing here runs before the CPU check. */
#ifndef TXK_AVX2_SIMD_H
#define TXK_AVX2_SIMD_H

#include <immintrin.h>
#include <stddef.h>

#include "polynomials.h"
#include "../kernels.h"

#define TXK_INLINE static inline __attribute__((always_inline))

/* Lanes of a vector that holds elements i.. of n: all where 8 are left. */
TXK_INLINE __m256i lanes_f32x8(size_t left)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(left < 8 ? (int)left : 8), lane);
}

/* Up to 8 floats, the rest 0. The test spares whole vectors the mask; it is the same for all rows, so it predicts well. */
TXK_INLINE __m256 load_f32x8(const float *p, size_t left)
{
    return left >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, lanes_f32x8(left));
}

TXK_INLINE void store_f32x8(float *p, size_t left, __m256 x)
{
    if (left >= 8)
        _mm256_storeu_ps(p, x);
    else
        _mm256_maskstore_ps(p, lanes_f32x8(left), x);
}

/* Up to 8 bfloat16, exactly, the rest 0. There are no masked loads of 16 bits. */
TXK_INLINE __m256 load_bf16x8(const uint16_t *p, size_t left)
{
    uint16_t tail[8] = {0};
    if (left < 8)
        p = memcpy(tail, p, left * sizeof *p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}

/* To bfloat16, nearest even, still as float32. Not for NaN. */
TXK_INLINE __m256 rounded_to_bf16_f32x8(__m256 x)
{
    const __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    return _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32((int)0xffff0000)));
}

/* To bfloat16, nearest even, NaN stays NaN: 8 values below 2^16 in 32-bit lanes. */
TXK_INLINE __m256i bf16_of_f32x8(__m256 x)
{
    const __m256i nan = _mm256_or_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x400000));
    const __m256 is_nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    return _mm256_srli_epi32(_mm256_castps_si256(_mm256_blendv_ps(rounded_to_bf16_f32x8(x), _mm256_castsi256_ps(nan), is_nan)),
                             16);
}

TXK_INLINE void store_bf16x8(uint16_t *p, size_t left, __m256 x)
{
    const __m256i wide = bf16_of_f32x8(x);
    const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    if (left >= 8) {
        _mm_storeu_si128((__m128i *)p, packed);
        return;
    }
    uint16_t tail[8];
    _mm_storeu_si128((__m128i *)tail, packed);
    memcpy(p, tail, left * sizeof *p);
}

TXK_INLINE float sum_of_f32x8(__m256 x)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

TXK_INLINE int32_t sum_of_i32x8(__m256i x)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

TXK_INLINE float max_of_f32x8(__m256 x)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

TXK_INLINE __m256 abs_f32x8(__m256 x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

/* r[i][j] becomes r[j][i]. */
TXK_INLINE void transpose_f32x8(__m256 r[8])
{
    __m256 t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    __m256 s[8];
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            s[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + 2 + j], _MM_SHUFFLE(1, 0, 1, 0));
            s[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + 2 + j], _MM_SHUFFLE(3, 2, 3, 2));
        }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(s[i], s[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(s[i], s[i + 4], 0x31);
    }
}

/* 2^x for x < 128 by a polynomial of |r| <= 1/2; 0 below -126.5. */
TXK_INLINE __m256 exp2_f32x8(__m256 x)
{
    const __m256 magic = _mm256_set1_ps(0x1.8p23f);
    x = _mm256_max_ps(_mm256_set1_ps(-127.0f), x);
    const __m256 m = _mm256_add_ps(x, magic), r = _mm256_sub_ps(x, _mm256_sub_ps(m, magic));
    __m256 p = _mm256_set1_ps(poly_exp2[5]);
#pragma GCC unroll 5
    for (int i = 4; i >= 0; i--)
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(poly_exp2[i]));
    const __m256i power = _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(m), 23), _mm256_set1_epi32(127 << 23));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

/* e^x. Cody-Waite reduction, degree 6; at most 1.0 ulp, gradual underflow, inf from 88.73 on. */
TXK_INLINE __m256 exp_f32x8(__m256 x)
{
    /* Operand order: min and max return the second operand where one is NaN. The clamp keeps n within what two scalings can
     * do. */
    x = _mm256_min_ps(_mm256_set1_ps(128.0f), _mm256_max_ps(_mm256_set1_ps(-128.0f), x));
    const __m256 magic = _mm256_set1_ps(0x1.8p23f);
    const __m256 m = _mm256_fmadd_ps(x, _mm256_set1_ps(0x1.715476p+0f), magic), n = _mm256_sub_ps(m, magic);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
    __m256 p = _mm256_set1_ps(poly_exp[6]);
#pragma GCC unroll 6
    for (int i = 5; i >= 0; i--)
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(poly_exp[i]));
    /* 2^n in two halves, either of which is a normal number while the product may underflow or overflow. */
    const __m256i whole = _mm256_sub_epi32(_mm256_castps_si256(m), _mm256_castps_si256(magic));
    const __m256i half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
    const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    const __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(p, first), second);
}

/* max(x, 0) - G(|x|): see polynomials.py. From |x| = 7.5 segments on (5.86), G < 1.4e-8 is taken as 0. */
TXK_INLINE __m256 gelu_table_f32x8(__m256 x, const float (*table)[8])
{
    const __m256 magic = _mm256_set1_ps(0x1.8p23f), t = abs_f32x8(x);
    const __m256 m = _mm256_fmadd_ps(t, _mm256_set1_ps(1.28f), magic);
    const __m256 u = _mm256_fnmadd_ps(_mm256_sub_ps(m, magic), _mm256_set1_ps(0.78125f), t);
    const __m256i segment = _mm256_castps_si256(m); /* the permutation looks at the low three bits only */
    const __m256 inside = _mm256_cmp_ps(t, _mm256_set1_ps(7.5f * 0.78125f), _CMP_NGE_UQ); /* true for NaN */
    __m256 p = _mm256_permutevar8x32_ps(_mm256_load_ps(table[7]), segment);
#pragma GCC unroll 7
    for (int i = 6; i >= 0; i--)
        p = _mm256_fmadd_ps(p, u, _mm256_permutevar8x32_ps(_mm256_load_ps(table[i]), segment));
    return _mm256_sub_ps(_mm256_max_ps(x, _mm256_setzero_ps()), _mm256_and_ps(inside, p));
}

/* x Phi(x): relative error at most 3e-7 for x > -3, absolute 1.4e-8 below. */
TXK_INLINE __m256 gelu_erf_f32x8(__m256 x)
{
    return gelu_table_f32x8(x, poly_gelu_erf);
}

/* x (1 + tanh(sqrt(2/pi)(x + 0.044715 x^3))) / 2: relative error at most 4e-7 for x > -3, absolute 1e-9 below. */
TXK_INLINE __m256 gelu_tanh_f32x8(__m256 x)
{
    return gelu_table_f32x8(x, poly_gelu_tanh);
}

/* x / (1 + e^-x). Below -128 the result is 0 to float32, and the clamp spares -inf / inf. */
TXK_INLINE __m256 silu_f32x8(__m256 x)
{
    x = _mm256_max_ps(_mm256_set1_ps(-128.0f), x);
    const __m256 e = exp_f32x8(_mm256_sub_ps(_mm256_setzero_ps(), x));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

/* x / (1 + e^-1.702 x): as silu, with one more rounding, which e^ turns into at most 2^-24 |1.702 x| of the result. */
TXK_INLINE __m256 quick_gelu_f32x8(__m256 x)
{
    x = _mm256_max_ps(_mm256_set1_ps(-75.0f), x);
    const __m256 e = exp_f32x8(_mm256_mul_ps(x, _mm256_set1_ps(-1.702f)));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

/* tanh: a polynomial below 0.625, where 1 - e^-2t would cancel, the exponential above. */
TXK_INLINE __m256 tanh_f32x8(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1.0f), t = abs_f32x8(x), s = _mm256_mul_ps(x, x);
    __m256 p = _mm256_set1_ps(poly_tanh[5]);
#pragma GCC unroll 4
    for (int i = 4; i >= 1; i--)
        p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(poly_tanh[i]));
    const __m256 small = _mm256_fmadd_ps(_mm256_mul_ps(p, s), x, x);
    const __m256 e = exp_f32x8(_mm256_mul_ps(t, _mm256_set1_ps(-2.0f)));
    __m256 large = _mm256_div_ps(_mm256_sub_ps(one, e), _mm256_add_ps(one, e));
    large = _mm256_or_ps(large, _mm256_and_ps(x, _mm256_set1_ps(-0.0f)));
    return _mm256_blendv_ps(large, small, _mm256_cmp_ps(t, _mm256_set1_ps(0.625f), _CMP_LT_OQ));
}

/* `act` is a constant wherever this is inlined. */
TXK_INLINE __m256 activate_f32x8(__m256 x, int act)
{
    switch (act) {
    case TX_ACT_GELU_ERF: return gelu_erf_f32x8(x);
    case TX_ACT_GELU_TANH: return gelu_tanh_f32x8(x);
    case TX_ACT_SILU: return silu_f32x8(x);
    case TX_ACT_TANH: return tanh_f32x8(x);
    case TX_ACT_QUICK_GELU: return quick_gelu_f32x8(x);
    case TX_ACT_RELU: return _mm256_max_ps(_mm256_setzero_ps(), x); /* NaN stays */
    default: return x;
    }
}

#endif
