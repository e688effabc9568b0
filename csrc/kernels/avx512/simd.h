/* Vector mathematics of the AVX-512 row: masked tails, sums, exp, and the activations, on 16 floats.
 *
 * Errors below were measured against float64 over every range the tests name (tests/kernels/test_float32.py repeats that); ulp
 * is of the exact result. NaN passes through everywhere, and no argument, however large, gives NaN where the function has a
 * limit. Static inline functions and const data only: nothing here runs before the CPU check. */
#ifndef TXK_AVX512_SIMD_H
#define TXK_AVX512_SIMD_H

#include <immintrin.h>
#include <stddef.h>

#include "polynomials.h"
#include "../kernels.h"

#define TXK_INLINE static inline __attribute__((always_inline))

/* Lanes of a vector that holds elements i.. of n: all where 16 are left. */
TXK_INLINE __mmask16 lanes_f32x16(size_t left)
{
    return left >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << left) - 1u);
}

/* Sixteen rows of sixteen floats become their transpose. */
TXK_INLINE void transpose_f32x16(__m512 r[16])
{
    __m512 s[16];
    /* Within each 128-bit lane: pairs of rows, then fours; then the lanes themselves, four by four. */
    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_shuffle_ps(s[i], s[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(s[i], s[i + 2], 0xee);
        r[i + 2] = _mm512_shuffle_ps(s[i + 1], s[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(s[i + 1], s[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        s[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        s[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        s[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        s[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_f32x4(s[i], s[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(s[i], s[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_f32x4(s[i + 4], s[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_f32x4(s[i + 4], s[i + 12], 0xdd);
    }
}

/* dst[D, width] <- the transpose of src[rows, D]; columns from `rows` to width, a multiple of 16, become zeros. dst is 64-byte
 * aligned. */
TXK_INLINE void transpose_f32(float *dst, size_t width, const float *src, size_t ld, size_t rows, size_t D)
{
    for (size_t c = 0; c < width; c += 16)
        for (size_t d = 0; d < D; d += 16) {
            const __mmask16 lanes = lanes_f32x16(D - d);
            __m512 r[16];
            for (size_t i = 0; i < 16; i++) {
                r[i] = c + i < rows ? _mm512_maskz_loadu_ps(lanes, src + (c + i) * ld + d) : _mm512_setzero_ps();
                if (c + i + 16 < rows) /* rows lie pages apart, where no hardware looks ahead */
                    _mm_prefetch((const char *)(src + (c + i + 16) * ld + d), _MM_HINT_T0);
            }
            transpose_f32x16(r);
            for (size_t i = 0; i < 16 && d + i < D; i++)
                _mm512_store_ps(dst + (d + i) * width + c, r[i]);
        }
}

/* e^x. Cody-Waite reduction, degree 6; at most 0.88 ulp, gradual underflow, inf from 88.73 on. */
TXK_INLINE __m512 exp_f32x16(__m512 x)
{
    /* Operand order: min and max return the second operand where one is NaN. The clamp keeps the rounding trick within its
     * range. */
    x = _mm512_min_ps(_mm512_set1_ps(128.0f), _mm512_max_ps(_mm512_set1_ps(-128.0f), x));
    const __m512 magic = _mm512_set1_ps(0x1.8p23f);
    const __m512 n = _mm512_sub_ps(_mm512_fmadd_ps(x, _mm512_set1_ps(0x1.715476p+0f), magic), magic);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e4p-1f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
    __m512 p = _mm512_set1_ps(poly_exp[6]);
    for (int i = 5; i >= 0; i--)
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(poly_exp[i]));
    return _mm512_scalef_ps(p, n);
}

/* 2^x for x <= 0, as softmax needs it: relative error at most 1.7e-7 (2.03 ulp); no less than 2^-125, so that no product meets
 * denormals. */
TXK_INLINE __m512 exp2_f32x16(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(0x1.8p23f);
    x = _mm512_max_ps(_mm512_set1_ps(-125.0f), x);
    const __m512 n = _mm512_sub_ps(_mm512_add_ps(x, magic), magic);
    const __m512 r = _mm512_sub_ps(x, n);
    __m512 p = _mm512_set1_ps(poly_exp2[5]);
    for (int i = 4; i >= 0; i--)
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(poly_exp2[i]));
    return _mm512_scalef_ps(p, n);
}

/* max(x, 0) - G(|x|): see polynomials.py. From |x| = 31.5 segments on (5.906), G < 1.1e-8 is taken as 0. */
TXK_INLINE __m512 gelu_table_f32x16(__m512 x, const float (*table)[32])
{
    const __m512 magic = _mm512_set1_ps(0x1.8p23f);
    const __m512 t = _mm512_abs_ps(x);
    const __m512 m = _mm512_fmadd_ps(t, _mm512_set1_ps(16.0f / 3.0f), magic);
    const __m512 u = _mm512_fnmadd_ps(_mm512_sub_ps(m, magic), _mm512_set1_ps(0.1875f), t);
    const __m512i segment = _mm512_castps_si512(m); /* the permutation looks at the low five bits only */
    const __mmask16 inside = _mm512_cmp_ps_mask(t, _mm512_set1_ps(31.5f * 0.1875f), _CMP_NGE_UQ); /* true for NaN */
#define C(i) _mm512_permutex2var_ps(_mm512_load_ps(table[i]), segment, _mm512_load_ps(table[i] + 16))
    __m512 p = _mm512_fmadd_ps(C(4), u, C(3));
    p = _mm512_fmadd_ps(p, u, C(2));
    p = _mm512_fmadd_ps(p, u, C(1));
    p = _mm512_maskz_fmadd_ps(inside, p, u, C(0));
#undef C
    return _mm512_sub_ps(_mm512_max_ps(x, _mm512_setzero_ps()), p);
}

/* x Phi(x): relative error at most 3.4e-7 for x > -3.3, 1.8e-5 down to -5.9, absolute 1.1e-8 below. */
TXK_INLINE __m512 gelu_erf_f32x16(__m512 x)
{
    return gelu_table_f32x16(x, poly_gelu_erf);
}

/* x (1 + tanh(sqrt(2/pi)(x + 0.044715 x^3))) / 2: relative error at most 4.8e-7 for x > -3.3, 1.3e-4 down to -5.9, absolute
 * 3e-10 below. */
TXK_INLINE __m512 gelu_tanh_f32x16(__m512 x)
{
    return gelu_table_f32x16(x, poly_gelu_tanh);
}

/* x / (1 + e^-x): relative error at most 1.5e-7. Below -128 the result is 0 to float32, and the clamp spares -inf / inf. */
TXK_INLINE __m512 silu_f32x16(__m512 x)
{
    x = _mm512_max_ps(_mm512_set1_ps(-128.0f), x);
    const __m512 e = exp_f32x16(_mm512_sub_ps(_mm512_setzero_ps(), x));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

/* x / (1 + e^-1.702 x): as silu, with one more rounding, which e^ turns into at most 2^-24 |1.702 x| of the result. */
TXK_INLINE __m512 quick_gelu_f32x16(__m512 x)
{
    x = _mm512_max_ps(_mm512_set1_ps(-75.0f), x);
    const __m512 e = exp_f32x16(_mm512_mul_ps(x, _mm512_set1_ps(-1.702f)));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

/* tanh, relative error at most 1.5e-7: a polynomial below 0.625, where 1 - e^-2t would cancel, the exponential above. */
TXK_INLINE __m512 tanh_f32x16(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f), t = _mm512_abs_ps(x);
    const __m512 s = _mm512_mul_ps(x, x);
    __m512 p = _mm512_set1_ps(poly_tanh[5]);
    for (int i = 4; i >= 1; i--)
        p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(poly_tanh[i]));
    const __m512 small = _mm512_fmadd_ps(_mm512_mul_ps(p, s), x, x);
    const __m512 e = exp_f32x16(_mm512_mul_ps(t, _mm512_set1_ps(-2.0f)));
    __m512 large = _mm512_div_ps(_mm512_sub_ps(one, e), _mm512_add_ps(one, e));
    const __m512 sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0f));
    large = _mm512_or_ps(large, sign);
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(t, _mm512_set1_ps(0.625f), _CMP_LT_OQ), large, small);
}

/* `act` is a constant wherever this is inlined. */
TXK_INLINE __m512 activate_f32x16(__m512 x, int act)
{
    switch (act) {
    case TX_ACT_GELU_ERF: return gelu_erf_f32x16(x);
    case TX_ACT_GELU_TANH: return gelu_tanh_f32x16(x);
    case TX_ACT_SILU: return silu_f32x16(x);
    case TX_ACT_TANH: return tanh_f32x16(x);
    case TX_ACT_QUICK_GELU: return quick_gelu_f32x16(x);
    case TX_ACT_RELU: return _mm512_max_ps(_mm512_setzero_ps(), x); /* NaN stays */
    default: return x;
    }
}

#endif
