/* out[Tq,Dh] = softmax(scale q k^T) v of one head, never storing more scores than a strip.
 *
 * K is packed once a call into panels of 32 keys, [Tk/32][Dh][32], zero padded. For each few rows of q, blocks of BLOCK keys (borders at
 * multiples of BLOCK from key 0) go by: scores by the tile of tile_avx512.h, running maximum and sum of each row, exp, the old sums
 * rescaled, then P V by the same tile with V read in place. A row's arithmetic depends on its q, Tk and Dh alone.
 * Rows whose scores hold NaN or +inf come out as NaN. */
#include <math.h>

#include "kernels_avx512.h"
#include "tile_avx512.h"

enum { KEYS = 32, BLOCK = 256, ROWS = 9 };

#define SCORES(MR) static void scores_##MR(const struct tile_f32 *t) { tile_f32(t, MR, 2, KEYS, 0); }
#define PAIR(MR) static void pair_##MR(const struct tile_f32 *t) { tile_f32(t, MR, 2, 0, 1); }
#define LAST(MR) static void last_##MR(const struct tile_f32 *t) { tile_f32(t, MR, 1, 0, 1); }
#define ALL(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)
ALL(SCORES) ALL(PAIR) ALL(LAST)

typedef void tile_function(const struct tile_f32 *);
#define NAMES(kind) {NULL, kind##_1, kind##_2, kind##_3, kind##_4, kind##_5, kind##_6, kind##_7, kind##_8, kind##_9}
static tile_function *const scores_tiles[ROWS + 1] = NAMES(scores);
static tile_function *const pair_tiles[ROWS + 1] = NAMES(pair);
static tile_function *const last_tiles[ROWS + 1] = NAMES(last);

static size_t padded(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Packed K; then, each for ROWS rows: the strip of scores, and the sums of the output. */
size_t txk_attention_f32_scratch_avx512(size_t Tk, size_t Dh)
{
    return (padded(Tk, KEYS) * Dh + ROWS * (BLOCK + padded(Dh, 32))) * sizeof(float);
}

static void pack_keys(float *packed, const struct tx_attention_f32 *job)
{
    for (size_t t = 0; t < job->Tk; t += KEYS)
        for (size_t d = 0; d < job->Dh; d++)
            for (size_t j = 0; j < KEYS; j++)
                packed[t * job->Dh + d * KEYS + j] = t + j < job->Tk ? job->k[(t + j) * job->ldk + d] : 0.0f;
}

/* 2^x for x <= 0; 0 for -inf. */
TXK_INLINE __m512 exp2_f32x16(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(0x1.8p23f);
    x = _mm512_max_ps(_mm512_set1_ps(-160.0f), x);
    const __m512 n = _mm512_sub_ps(_mm512_add_ps(x, magic), magic);
    const __m512 r = _mm512_sub_ps(x, n);
    __m512 p = _mm512_set1_ps(fit_exp2[5]);
    for (int i = 4; i >= 0; i--)
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(fit_exp2[i]));
    return _mm512_scalef_ps(p, n);
}

/* Turns one row of scores into exp(scale (s - max)) with the new running maximum, updates the running sum and tells by how much the sums
 * so far shrink. */
static float soften(float *p, size_t keys, float log2_scale, float *max, float *sum)
{
    __m512 m = _mm512_set1_ps(*max);
    for (size_t j = 0; j < keys; j += 16) {
        const __mmask16 lanes = lanes_f32x16(keys - j);
        m = _mm512_mask_max_ps(m, lanes, m, _mm512_load_ps(p + j));
    }
    const float new_max = _mm512_reduce_max_ps(m);
    const __m512 base = _mm512_set1_ps(-new_max * log2_scale), factor = _mm512_set1_ps(log2_scale);
    __m512 s = _mm512_setzero_ps();
    for (size_t j = 0; j < keys; j += 16) {
        const __mmask16 lanes = lanes_f32x16(keys - j);
        const __m512 e = exp2_f32x16(_mm512_fmadd_ps(_mm512_load_ps(p + j), factor, base));
        s = _mm512_mask_add_ps(s, lanes, s, e);
        _mm512_store_ps(p + j, e);
    }
    const float shrink = exp2f((*max - new_max) * log2_scale);
    *sum = *sum * shrink + _mm512_reduce_add_ps(s);
    *max = new_max;
    return shrink;
}

void txk_attention_f32_avx512(const struct tx_attention_f32 *job)
{
    const size_t Tk = job->Tk, Dh = job->Dh, ldacc = padded(Dh, 32);
    float *keys = job->scratch;
    float *strip = keys + padded(Tk, KEYS) * Dh;
    float *acc = strip + ROWS * BLOCK;  /* [rows, ldacc] */
    pack_keys(keys, job);
    const float log2_scale = job->scale * 1.44269504088896341f;
    const size_t parts = (job->Tq + ROWS - 1) / ROWS;
    for (size_t i = 0; i < parts; i++) {
        const size_t q0 = part_begin(job->Tq, parts, i), rows = part_begin(job->Tq, parts, i + 1) - q0;
        float max[ROWS], sum[ROWS];
        for (size_t r = 0; r < rows; r++)
            max[r] = -INFINITY, sum[r] = 0;
        for (size_t j = 0; j < ROWS * ldacc; j++)
            acc[j] = 0;
        for (size_t t0 = 0; t0 < Tk; t0 += BLOCK) {
            const size_t t1 = t0 + BLOCK < Tk ? t0 + BLOCK : Tk;
            for (size_t t = t0; t < t1; t += KEYS) {
                const struct tile_f32 s = {.a = job->q + q0 * job->ldq, .lda = job->ldq, .w = keys + t * Dh, .ldw = KEYS, .K = Dh, .c = strip + t - t0, .ldc = BLOCK,
                                           .ahead = (const char *)keys};
                scores_tiles[rows](&s);
            }
            for (size_t r = 0; r < rows; r++) {
                const float shrink = soften(strip + r * BLOCK, t1 - t0, log2_scale, max + r, sum + r);
                for (size_t d = 0; d < ldacc; d++)
                    acc[r * ldacc + d] *= shrink;
            }
            for (size_t d = 0; d < Dh; d += 32) {
                const struct tile_f32 o = {.a = strip, .lda = BLOCK, .w = job->v + t0 * job->ldv + d, .ldw = job->ldv, .K = t1 - t0,
                                           .c = acc + d, .ldc = ldacc, .more = 1, .lanes = lanes_f32x16(Dh - d > 16 ? Dh - d - 16 : Dh - d),
                                           .ahead = (const char *)keys};
                (Dh - d > 16 ? pair_tiles : last_tiles)[rows](&o);
            }
        }
        for (size_t r = 0; r < rows; r++)
            for (size_t d = 0; d < Dh; d++)
                job->out[(q0 + r) * job->ldo + d] = acc[r * ldacc + d] / sum[r];
    }
}
