/* out[Tq,Dh] = softmax(scale (q k^T + bias)) v of one head, for attention_f32 and attention_bf16: the element type is a
 * constant of each.
 *
 * Once a call k and v become float32 panels in scratch: k as [Tk/16][Dh][16] (16 keys side by side), v as [Dh/16][Tk][16]
 * (16 columns), both zero padded. For each QUERIES rows of q, blocks of BLOCK keys (borders at multiples of BLOCK from key
 * 0) go by: scores by the tile of tile.h into a strip, running maximum and sum of each row, exp, the old sums rescaled, then
 * P V by the same tile. A panel of k serves all tiles of the rows while it is in L1. A row's arithmetic depends on its q, Tk
 * and Dh alone.
 *
 * bfloat16: widened exactly when packed; probabilities are rounded to bfloat16 before P V, their sum is of the unrounded
 * ones. Rows whose scores hold NaN or +inf come out as NaN. Probabilities below 2^-126 are 0. */
#ifndef TXK_NEON_ATTENTION_H
#define TXK_NEON_ATTENTION_H

#include <math.h>

#include "../attention_head.h"
#include "tile.h"

enum { QUERIES = 24, BLOCK = 256 };

#define WHOLE(MR) static void whole_##MR(const struct tile_f32 *t) { tile_f32(t, MR, 4); }
#define HALF(MR) static void half_##MR(const struct tile_f32 *t) { tile_f32(t, MR, 2); }
WHOLE(1) WHOLE(2) WHOLE(3) WHOLE(4) WHOLE(5) WHOLE(6)
HALF(1) HALF(2) HALF(3) HALF(4) HALF(5) HALF(6)
typedef void tile_function(const struct tile_f32 *);
static tile_function *const tiles[2][TILE_ROWS] = {{half_1, half_2, half_3, half_4, half_5, half_6},
                                                   {whole_1, whole_2, whole_3, whole_4, whole_5, whole_6}};

TXK_INLINE size_t padded(size_t n)
{
    return (n + PANEL - 1) / PANEL * PANEL;
}

/* Packed k and v; then, for QUERIES rows: q as float32, the strip of scores, and the sums of the output. */
TXK_INLINE size_t attention_scratch(size_t Tk, size_t Dh)
{
    return (padded(Tk) * Dh + Tk * padded(Dh) + QUERIES * (padded(Dh) + BLOCK + padded(Dh))) * sizeof(float);
}

/* 4 elements from element i of a row on, `left` of them or all. */
TXK_INLINE float32x4_t widened(const void *row, size_t i, size_t left, const int bf16)
{
    return bf16 ? load_bf16x4((const uint16_t *)row + i, left) : load_f32x4((const float *)row + i, left);
}

TXK_INLINE const void *row_at(const void *matrix, size_t i, size_t ld, const int bf16)
{
    return (const char *)matrix + i * ld * (bf16 ? sizeof(uint16_t) : sizeof(float));
}

TXK_INLINE void pack_keys(float *keys, const struct txk_head *job, const int bf16)
{
    const size_t Tk = job->Tk, Dh = job->Dh;
    for (size_t t = 0; t < padded(Tk); t += 4) {
        float *panel = keys + t / PANEL * PANEL * Dh + t % PANEL;
        for (size_t d = 0; d < Dh; d += 4) {
            float32x4_t r[4];
            for (size_t i = 0; i < 4; i++)
                r[i] = t + i < Tk ? widened(row_at(job->k, t + i, job->ldk, bf16), d, Dh - d, bf16) : vdupq_n_f32(0);
            transpose_f32x4(r);
            for (size_t i = 0; i < 4 && d + i < Dh; i++)
                vst1q_f32(panel + (d + i) * PANEL, r[i]);
        }
    }
}

TXK_INLINE void pack_values(float *values, const struct txk_head *job, const int bf16)
{
    const size_t Tk = job->Tk, Dh = job->Dh;
    for (size_t t = 0; t < Tk; t++) {
        const void *row = row_at(job->v, t, job->ldv, bf16);
        for (size_t d = 0; d < padded(Dh); d += 4)
            vst1q_f32(values + (d / PANEL * Tk + t) * PANEL + d % PANEL,
                            d < Dh ? widened(row, d, Dh - d, bf16) : vdupq_n_f32(0));
    }
}

/* 2^x for x <= 0; 0 below -126.5. */
TXK_INLINE float32x4_t exp2_f32x4(float32x4_t x)
{
    const float32x4_t magic = vdupq_n_f32(0x1.8p23f);
    x = vmaxq_f32(vdupq_n_f32(-127.0f), x);
    const float32x4_t m = vaddq_f32(x, magic), r = vsubq_f32(x, vsubq_f32(m, magic));
    float32x4_t p = vdupq_n_f32(poly_exp2[5]);
#pragma GCC unroll 5
    for (int i = 4; i >= 0; i--)
        p = fma_f32x4(p, r, vdupq_n_f32(poly_exp2[i]));
    const int32x4_t power = vaddq_s32(vshlq_n_s32(vreinterpretq_s32_f32(m), 23), vdupq_n_s32(127 << 23));
    return vmulq_f32(p, vreinterpretq_f32_s32(power));
}

/* Turns one row of scores into exp(scale (s - max)) with the new running maximum, updates the running sum and tells by how much
 * the sums so far shrink. The strip holds whole vectors; lanes past `keys` are read but count for nothing. */
TXK_INLINE float soften(float *p, size_t keys, float log2_scale, float *max, float *sum, const int bf16)
{
    const size_t whole = keys / 4 * 4;
    const uint32x4_t last = lanes_f32x4(keys - whole);
    float32x4_t m = vdupq_n_f32(*max), n = m, o = m, q = m; /* four chains: a maximum takes as long as an addition */
    size_t k = 0;
    for (; k + 16 <= keys; k += 16) {
        m = vmaxq_f32(m, vld1q_f32(p + k));
        n = vmaxq_f32(n, vld1q_f32(p + k + 4));
        o = vmaxq_f32(o, vld1q_f32(p + k + 8));
        q = vmaxq_f32(q, vld1q_f32(p + k + 12));
    }
    for (; k < whole; k += 4)
        m = vmaxq_f32(m, vld1q_f32(p + k));
    m = vmaxq_f32(vmaxq_f32(m, n), vmaxq_f32(o, q));
    if (whole < keys)
        m = vmaxq_f32(m, vbslq_f32(last, vld1q_f32(p + whole), vdupq_n_f32(-INFINITY)));
    const float new_max = vmaxvq_f32(m);
    /* First the difference, which is exactly 0 at the maximum however large the scores are. */
    const float32x4_t base = vdupq_n_f32(new_max), factor = vdupq_n_f32(log2_scale);
    float32x4_t s = vdupq_n_f32(0);
    for (size_t j = 0; j < keys; j += 4) {
        const float32x4_t e = exp2_f32x4(vmulq_f32(vsubq_f32(vld1q_f32(p + j), base), factor));
        s = vaddq_f32(s, j < whole ? e : masked_f32x4(e, last));
        vst1q_f32(p + j, bf16 ? rounded_to_bf16_f32x4(e) : e);
    }
    const float shrink = vgetq_lane_f32(exp2_f32x4(vdupq_n_f32((*max - new_max) * log2_scale)), 0);
    *sum = *sum * shrink + vaddvq_f32(s);
    *max = new_max;
    return shrink;
}

/* A row of scores from key t on gets its bias, whose numbers go the other way: bias[-t], bias[-t - 1], ... */
TXK_INLINE void add_bias(float *p, size_t keys, const float *bias)
{
    for (size_t j = 0; j < keys; j += 4) {
        const float32x4_t pairs = vrev64q_f32(vld1q_f32(bias - j - 3));
        vst1q_f32(p + j, vaddq_f32(vld1q_f32(p + j), vextq_f32(pairs, pairs, 2)));
    }
}

/* Rows q0.. of q against the block of keys from t0 on: acc and the running maxima and sums take it up. */
struct rows {
    const float *q, *bias;  /* bias: of the first of these rows with key 0, or NULL */
    size_t ldq, n;
    float *strip, *acc;     /* [QUERIES,BLOCK], [QUERIES,padded(Dh)] */
    float max[QUERIES], sum[QUERIES];
};

TXK_INLINE void attend_block(const struct txk_head *job, struct rows *r, const float *keys, const float *values, size_t t0,
                             const int bf16)
{
    const size_t Tk = job->Tk, Dh = job->Dh, ldacc = padded(Dh), t1 = t0 + BLOCK < Tk ? t0 + BLOCK : Tk;
    const size_t parts = (r->n + TILE_ROWS - 1) / TILE_ROWS;
    const float log2_scale = job->scale * 1.44269504088896341f;
    for (size_t t = t0; t < t1; t += PANEL)
        for (size_t i = 0; i < parts; i++) {
            const size_t m = part_begin(r->n, parts, i), rows = part_begin(r->n, parts, i + 1) - m;
            const struct tile_f32 s = {.a = r->q + m * r->ldq, .lda = r->ldq, .w = keys + t * Dh, .K = Dh,
                                       .c = r->strip + m * BLOCK + t - t0, .ldc = BLOCK};
            tiles[1][rows - 1](&s);
        }
    for (size_t m = 0; m < r->n && r->bias; m++)
        add_bias(r->strip + m * BLOCK, t1 - t0, r->bias + m - t0);
    for (size_t m = 0; m < r->n; m++) {
        const float32x4_t shrink = vdupq_n_f32(soften(r->strip + m * BLOCK, t1 - t0, log2_scale, r->max + m, r->sum + m, bf16));
        for (size_t d = 0; d < ldacc; d += 4)
            vst1q_f32(r->acc + m * ldacc + d, vmulq_f32(shrink, vld1q_f32(r->acc + m * ldacc + d)));
    }
    for (size_t d = 0; d < Dh; d += PANEL)
        for (size_t i = 0; i < parts; i++) {
            const size_t m = part_begin(r->n, parts, i), rows = part_begin(r->n, parts, i + 1) - m;
            const struct tile_f32 o = {.a = r->strip + m * BLOCK, .lda = BLOCK, .w = values + (d / PANEL * Tk + t0) * PANEL,
                                       .K = t1 - t0, .c = r->acc + m * ldacc + d, .ldc = ldacc, .more = 1};
            tiles[Dh - d > 8][rows - 1](&o);
        }
}

TXK_INLINE void attend(const struct txk_head *job, const int bf16)
{
    const size_t Tk = job->Tk, Dh = job->Dh, ldacc = padded(Dh);
    float *keys = job->scratch, *values = keys + padded(Tk) * Dh;
    float *wide_q = values + Tk * ldacc, *strip = wide_q + QUERIES * ldacc, *acc = strip + QUERIES * BLOCK;
    pack_keys(keys, job, bf16);
    pack_values(values, job, bf16);
    for (size_t q0 = 0; q0 < job->Tq; q0 += QUERIES) {
        struct rows r = {.n = job->Tq - q0 < QUERIES ? job->Tq - q0 : QUERIES, .strip = strip, .acc = acc,
                         .bias = job->bias ? job->bias + q0 : NULL};
        if (bf16) {
            for (size_t m = 0; m < r.n; m++)
                for (size_t d = 0; d < Dh; d += 4)
                    vst1q_f32(wide_q + m * ldacc + d, widened(row_at(job->q, q0 + m, job->ldq, bf16), d, Dh - d, bf16));
            r.q = wide_q, r.ldq = ldacc;
        } else {
            r.q = (const float *)job->q + q0 * job->ldq, r.ldq = job->ldq;
        }
        for (size_t m = 0; m < r.n; m++)
            r.max[m] = -INFINITY, r.sum[m] = 0;
        memset(acc, 0, r.n * ldacc * sizeof *acc);
        for (size_t t0 = 0; t0 < Tk; t0 += BLOCK)
            attend_block(job, &r, keys, values, t0, bf16);
        for (size_t m = 0; m < r.n; m++)
            for (size_t d = 0; d < Dh; d += 4) {
                const float32x4_t y = vdivq_f32(vld1q_f32(acc + m * ldacc + d), vdupq_n_f32(r.sum[m]));
                if (bf16)
                    store_bf16x4((uint16_t *)job->out + (q0 + m) * job->ldo + d, Dh - d, y);
                else
                    store_f32x4((float *)job->out + (q0 + m) * job->ldo + d, Dh - d, y);
            }
    }
}

#endif
