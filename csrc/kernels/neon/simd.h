/* Vector mathematics of the NEON rows: tails, sums, exp, and the activations, on 4 floats. Methods, polynomials and errors are
 * those of avx2/simd.h, instruction for instruction.
 *
 * NaN passes through everywhere: NEON's minimum and maximum return it. There are no masks: tails go over a small array. Static
 * inline functions and const data only. */
#ifndef TXK_NEON_SIMD_H
#define TXK_NEON_SIMD_H

#include <arm_neon.h>
#include <stddef.h>

#include "polynomials.h"
#include "../avx2/polynomials.h"
#include "../kernels.h"

#define TXK_INLINE static inline __attribute__((always_inline))

/* Lanes of a vector that holds elements i.. of n, as all ones: all where 4 are left. */
TXK_INLINE uint32x4_t lanes_f32x4(size_t left)
{
    static const uint32_t lane[4] = {0, 1, 2, 3};
    return vcltq_u32(vld1q_u32(lane), vdupq_n_u32(left < 4 ? (uint32_t)left : 4));
}

/* The lanes where mask has ones, 0 elsewhere. */
TXK_INLINE float32x4_t masked_f32x4(float32x4_t x, uint32x4_t mask)
{
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), mask));
}

/* Up to 4 floats, the rest 0. */
TXK_INLINE float32x4_t load_f32x4(const float *p, size_t left)
{
    float tail[4] = {0};
    if (left < 4)
        p = memcpy(tail, p, left * sizeof *p);
    return vld1q_f32(p);
}

TXK_INLINE void store_f32x4(float *p, size_t left, float32x4_t x)
{
    if (left >= 4) {
        vst1q_f32(p, x);
        return;
    }
    float tail[4];
    vst1q_f32(tail, x);
    memcpy(p, tail, left * sizeof *p);
}

/* Up to 4 bfloat16, exactly, the rest 0. */
TXK_INLINE float32x4_t load_bf16x4(const uint16_t *p, size_t left)
{
    uint16_t tail[4] = {0};
    if (left < 4)
        p = memcpy(tail, p, left * sizeof *p);
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}

/* To bfloat16, nearest even, still as float32. Not for NaN. */
TXK_INLINE float32x4_t rounded_to_bf16_f32x4(float32x4_t x)
{
    const uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t up = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    return vreinterpretq_f32_u32(vandq_u32(up, vdupq_n_u32(0xffff0000)));
}

/* To bfloat16, nearest even, NaN stays NaN. */
TXK_INLINE uint16x4_t bf16_of_f32x4(float32x4_t x)
{
    const uint32x4_t nan = vorrq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0x400000));
    const uint32x4_t rounded = vreinterpretq_u32_f32(rounded_to_bf16_f32x4(x));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, nan), 16);
}

TXK_INLINE void store_bf16x4(uint16_t *p, size_t left, float32x4_t x)
{
    if (left >= 4) {
        vst1_u16(p, bf16_of_f32x4(x));
        return;
    }
    uint16_t tail[4];
    vst1_u16(tail, bf16_of_f32x4(x));
    memcpy(p, tail, left * sizeof *p);
}

/* a b + c, rounded once; c - a b and a b - c likewise. */
TXK_INLINE float32x4_t fma_f32x4(float32x4_t a, float32x4_t b, float32x4_t c)
{
    return vfmaq_f32(c, a, b);
}

TXK_INLINE float32x4_t fms_f32x4(float32x4_t a, float32x4_t b, float32x4_t c)
{
    return vfmaq_f32(vnegq_f32(c), a, b);
}

/* e^(x + low), where low is what x lost when it was rounded. Cody-Waite reduction, degree 6; at most 1.0 ulp, gradual
 * underflow, inf from 88.73 on. */
TXK_INLINE float32x4_t exp_sum_f32x4(float32x4_t x, float32x4_t low)
{
    /* The clamp keeps n within what two scalings can do. */
    x = vminq_f32(vdupq_n_f32(128.0f), vmaxq_f32(vdupq_n_f32(-128.0f), x));
    const float32x4_t magic = vdupq_n_f32(0x1.8p23f);
    const float32x4_t m = fma_f32x4(x, vdupq_n_f32(0x1.715476p+0f), magic), n = vsubq_f32(m, magic);
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(0x1.62e4p-1f));
    r = vaddq_f32(vfmsq_f32(r, n, vdupq_n_f32(0x1.7f7d1cp-20f)), low);
    float32x4_t p = vdupq_n_f32(poly_exp[6]);
#pragma GCC unroll 6
    for (int i = 5; i >= 0; i--)
        p = fma_f32x4(p, r, vdupq_n_f32(poly_exp[i]));
    /* 2^n in two halves, either of which is a normal number while the product may underflow or overflow. */
    const int32x4_t whole = vsubq_s32(vreinterpretq_s32_f32(m), vreinterpretq_s32_f32(magic));
    const int32x4_t half = vshrq_n_s32(whole, 1), bias = vdupq_n_s32(127);
    const float32x4_t first = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
    const float32x4_t second = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vsubq_s32(whole, half), bias), 23));
    return vmulq_f32(vmulq_f32(p, first), second);
}

TXK_INLINE float32x4_t exp_f32x4(float32x4_t x)
{
    return exp_sum_f32x4(x, vdupq_n_f32(0));
}

/* x Phi(x) = max(x, 0) - t Q(t), t = |x|: see polynomials.py. */
TXK_INLINE float32x4_t gelu_erf_f32x4(float32x4_t x)
{
    const float32x4_t t = vminq_f32(vdupq_n_f32(16.0f), vabsq_f32(x));
    const float32x4_t one = vdupq_n_f32(1.0f), minus_half = vdupq_n_f32(-0.5f);
    const float32x4_t u = vdivq_f32(one, fma_f32x4(t, vdupq_n_f32(poly_mills), one));
    float32x4_t p = vdupq_n_f32(poly_normal_tail[8]);
#pragma GCC unroll 8
    for (int i = 7; i >= 0; i--)
        p = fma_f32x4(p, u, vdupq_n_f32(poly_normal_tail[i]));
    const float32x4_t s = vmulq_f32(t, t), s_low = fms_f32x4(t, t, s);
    const float32x4_t e = exp_sum_f32x4(vmulq_f32(s, minus_half), vmulq_f32(s_low, minus_half));
    const float32x4_t tail = vmulq_f32(vmulq_f32(t, u), vmulq_f32(p, e));
    return vsubq_f32(vmaxq_f32(x, vdupq_n_f32(0)), tail);
}

/* x (1 + tanh(sqrt(2/pi)(x + 0.044715 x^3))) / 2 = max(x, 0) - t / (1 + e^v), v = 2 sqrt(2/pi)(t + 0.044715 t^3), t = |x|. */
TXK_INLINE float32x4_t gelu_tanh_f32x4(float32x4_t x)
{
    const float32x4_t t = vminq_f32(vdupq_n_f32(16.0f), vabsq_f32(x)), two = vdupq_n_f32(1.5957691216057308f);
    const float32x4_t cube = vmulq_f32(vmulq_f32(t, t), vmulq_f32(t, vdupq_n_f32(0.0713548162726f)));
    const float32x4_t first = vmulq_f32(t, two), v = vaddq_f32(first, cube);
    const float32x4_t low = vaddq_f32(vaddq_f32(vsubq_f32(first, v), cube), fms_f32x4(t, two, first));
    const float32x4_t tail = vdivq_f32(t, vaddq_f32(vdupq_n_f32(1.0f), exp_sum_f32x4(v, low)));
    return vsubq_f32(vmaxq_f32(x, vdupq_n_f32(0)), tail);
}

/* x / (1 + e^-x). Below -128 the result is 0 to float32, and the clamp spares -inf / inf. */
TXK_INLINE float32x4_t silu_f32x4(float32x4_t x)
{
    x = vmaxq_f32(vdupq_n_f32(-128.0f), x);
    return vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0f), exp_f32x4(vnegq_f32(x))));
}

/* x / (1 + e^-1.702 x) */
TXK_INLINE float32x4_t quick_gelu_f32x4(float32x4_t x)
{
    x = vmaxq_f32(vdupq_n_f32(-75.0f), x);
    return vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0f), exp_f32x4(vmulq_f32(x, vdupq_n_f32(-1.702f)))));
}

/* tanh: a polynomial below 0.625, where 1 - e^-2t would cancel, the exponential above. */
TXK_INLINE float32x4_t tanh_f32x4(float32x4_t x)
{
    const float32x4_t one = vdupq_n_f32(1.0f), t = vabsq_f32(x), s = vmulq_f32(x, x);
    float32x4_t p = vdupq_n_f32(poly_tanh[5]);
#pragma GCC unroll 4
    for (int i = 4; i >= 1; i--)
        p = fma_f32x4(p, s, vdupq_n_f32(poly_tanh[i]));
    const float32x4_t small = fma_f32x4(vmulq_f32(p, s), x, x), e = exp_f32x4(vmulq_f32(t, vdupq_n_f32(-2.0f)));
    const float32x4_t large = vdivq_f32(vsubq_f32(one, e), vaddq_f32(one, e));
    const float32x4_t with_sign = vbslq_f32(vdupq_n_u32(0x80000000), x, large);
    return vbslq_f32(vcltq_f32(t, vdupq_n_f32(0.625f)), small, with_sign);
}

/* `act` is a constant wherever this is inlined. */
TXK_INLINE float32x4_t activate_f32x4(float32x4_t x, int act)
{
    switch (act) {
    case TX_ACT_GELU_ERF: return gelu_erf_f32x4(x);
    case TX_ACT_GELU_TANH: return gelu_tanh_f32x4(x);
    case TX_ACT_SILU: return silu_f32x4(x);
    case TX_ACT_TANH: return tanh_f32x4(x);
    case TX_ACT_QUICK_GELU: return quick_gelu_f32x4(x);
    case TX_ACT_RELU: return vmaxq_f32(vdupq_n_f32(0), x);
    default: return x;
    }
}

/* r[i][j] becomes r[j][i]. */
TXK_INLINE void transpose_f32x4(float32x4_t r[4])
{
    const float32x4x2_t a = vtrnq_f32(r[0], r[1]), b = vtrnq_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    r[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    r[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    r[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

#endif
