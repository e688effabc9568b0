/* out[Tq,Dh] = softmax(scale (q k^T + bias)) v of one head, for attention_f32 and attention_bf16: the two differ in what a
 * product's step takes (one element, or a pair of bfloat16) and in how a probability is made and stored.
 *
 * Passes, for every 64 queries:
 *   1. q turned around into lines
 *   2. for every BLOCK keys, six at a time: scores of six keys, a tile of 6 x 4 vectors in registers, and beside them the six
 *      before become probabilities: between multiply-adds that costs next to nothing, where a pass of its own takes a tenth of
 *      the time
 *   3. after BLOCK keys: the output takes up their probabilities, which are in L1
 *   4. out / sum, turned back
 *
 * All is transposed: a vector holds 16 queries, whose maxima and sums need no reduction across lanes. A "line" is NV vectors
 * side by side, for 16 NV queries. Keys and values are the factor that is broadcast: they are read where they lie, unpadded.
 *
 *                   line of 64 queries
 *                 +--------------------+
 *     Dh          |  q                 |
 *                 +--------------------+
 *     6 keys      |  scores -> p       |   6 x 4 vectors
 *                 +--------------------+
 *     Dh          |  out               |
 *                 +--------------------+
 *
 * Probabilities are 2^(t - base), base a whole number; it follows the maximum of a query's scores only where that has risen
 * by more than 8, six keys at a time. What was made under the old base shrinks by a power of two, exactly. No probability
 * passes 2^9. A lane's arithmetic depends on its q, k, v, Tk and Dh alone. Rows whose scores hold NaN or +inf come out as
 * NaN.
 *
 * An includer defines, before: SPACING, steps of a tile to each pair of vectors softened, 2 or 4; PAIR, keys in a line of
 * probabilities; DOT, the instruction; DOT_PLAIN, the same as a function; and after: soften_pair and shrink_line. */
#ifndef TXK_AVX512_ATTENTION_H
#define TXK_AVX512_ATTENTION_H

#include <float.h>
#include <math.h>
#include <string.h>

#include "simd_narrow.h"

enum { ROWS = 6, VECTORS = 4, QUERIES = 16 * VECTORS, BLOCK = 16 * ROWS };

struct attention {
    float base[QUERIES], limit[QUERIES], sum[QUERIES];  /* limit: the score from which on the base must rise */
    size_t Tk, Dh;
    const char *keys, *values;  /* [Tk], ldk bytes apart; [Tk / PAIR] rows of dwords, ldv bytes apart */
    size_t ldk, ldv;
    float factor;               /* score times factor: exponent of 2 */
    const float *bias;          /* of the first query with key 0, or NULL */
    float bias_factor;          /* what makes a score of it */
    size_t steps;               /* of a score's product */
    size_t NV;                  /* vectors of a line */
    float *q;                   /* [steps] lines */
    float *p;                   /* [BLOCK / PAIR] lines */
    float *scores[2];           /* [ROWS] lines */
    float *out;                 /* [Dh] lines */
} __attribute__((aligned(64)));

/* c[MR] = a w, or c += a w; lines of w and c have NV vectors. */
struct tile {
    const char *a;          /* of scores: row i at i lda, step k at 4 k; of the output: row i at 4 i, step k at k lda */
    size_t lda;
    const float *w;         /* [K] lines */
    size_t K;
    float *c;
    /* Tiles of scores only. */
    struct attention *attention;
    const char *ahead;      /* as many rows that come next, or NULL */
    const float *bias;      /* where the sums of row i begin, times bias_factor: [16 NV] from -i on; or NULL: at zero */
    const float *scores;    /* [ROWS] lines to be softened meanwhile, or NULL */
    float *p;               /* to there */
};

/* Vectors 2 pair and 2 pair + 1 down group g of `rows` lines of scores become probabilities, and join the sum. */
TXK_INLINE void soften_pair(struct attention *a, float *p, const float *scores, size_t pair, size_t g, size_t rows, size_t NV);
/* p[0:16] times 2^shrink */
TXK_INLINE void shrink_line(float *p, __m512 shrink);

/* acc[0:MR] += A[:, k] w for step k (a literal, as MR and NV are: they become part of the instructions). In assembly for the
 * reasons that tile.h gives; the sanitizers see the plain version, which compiles in a hundredth of the time. */
#if defined(__SANITIZE_ADDRESS__)
static
    __attribute__((noinline)) void step(__m512 acc[ROWS][VECTORS], const float *line, const char *a, size_t ld, int MR, int NV)
{
    for (int i = 0; i < MR; i++) {
        float x;
        memcpy(&x, a + (size_t)i * ld, sizeof x);
        for (int j = 0; j < NV; j++)
            acc[i][j] = DOT_PLAIN(acc[i][j], _mm512_set1_ps(x), _mm512_load_ps(line + 16 * j));
    }
}
#define SCORE_ROWS(k) step(acc, line, base[0] + 4 * k, ld, MR, NV);
#define VALUE_ROWS(k) step(acc, line, base[0] + k * ld, 4, MR, NV);
#define STEP(ROWS_AT, k)                                                                                        \
    {                                                                                                           \
        ROWS_AT(k)                                                                                              \
        line += 16 * NV;                                                                                        \
    }
#else
#define DOT_AT(i, j)                                                                                            \
    if (NV > j)                                                                                                 \
        __asm__(DOT " %[w], %[x], %[c]" : [c] "+v"(acc[i][j]) : [w] "v"(w[j]), [x] "v"(x));
#define ROW_AT(i, address, from)                                                        \
    {                                                                                   \
        __m512 x;                                                                       \
        __asm__("vbroadcastss " address ", %[x]"                                        \
                : [x] "=v"(x)                                                           \
                : [base] "r"(from), [ld] "r"(ld), "m"(*(const float(*)[1 << 16])from)); \
        DOT_AT(i, 0) DOT_AT(i, 1) DOT_AT(i, 2) DOT_AT(i, 3)                             \
    }
#define SCORE_ROW(i, k)                                                                                         \
    if (MR > i && i % 3 == 0) ROW_AT(i, #k "*4(%[base])", base[i / 3])                                          \
    if (MR > i && i % 3 == 1) ROW_AT(i, #k "*4(%[base],%[ld])", base[i / 3])                                    \
    if (MR > i && i % 3 == 2) ROW_AT(i, #k "*4(%[base],%[ld],2)", base[i / 3])
#define VALUE_ROW(i, k)                                                                                         \
    if (MR > i && k % 3 == 0) ROW_AT(i, #i "*4(%[base])", base[k / 3])                                          \
    if (MR > i && k % 3 == 1) ROW_AT(i, #i "*4(%[base],%[ld])", base[k / 3])                                    \
    if (MR > i && k % 3 == 2) ROW_AT(i, #i "*4(%[base],%[ld],2)", base[k / 3])
#define SCORE_ROWS(k) SCORE_ROW(0, k) SCORE_ROW(1, k) SCORE_ROW(2, k) SCORE_ROW(3, k) SCORE_ROW(4, k) SCORE_ROW(5, k)
#define VALUE_ROWS(k) VALUE_ROW(0, k) VALUE_ROW(1, k) VALUE_ROW(2, k) VALUE_ROW(3, k) VALUE_ROW(4, k) VALUE_ROW(5, k)
#define LINE_AT(j)                                                                                              \
    if (NV > j)                                                                                                 \
        w[j] = _mm512_load_ps(line + 16 * j);
#define STEP(ROWS_AT, k)                                                                                        \
    {                                                                                                           \
        __m512 w[VECTORS];                                                                                      \
        LINE_AT(0) LINE_AT(1) LINE_AT(2) LINE_AT(3)                                                             \
        line += 16 * NV;                                                                                        \
        ROWS_AT(k)                                                                                              \
    }
#endif

/* Whether any score is above its query's limit. */
TXK_INLINE int score_tile(const struct tile *t, const int MR, const int NV)
{
    __m512 acc[ROWS][VECTORS];
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++)
            acc[i][j] = _mm512_setzero_ps();
    if (t->bias)
#pragma GCC unroll 6
        for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
            for (int j = 0; j < NV; j++)
                acc[i][j] = _mm512_mul_ps(_mm512_set1_ps(t->attention->bias_factor), _mm512_loadu_ps(t->bias + 16 * j - i));
    const float *line = t->w;
    const size_t ld = t->lda, pairs = t->scores ? ROWS / 2 * (size_t)NV : 0;
    const char *base[2] = {t->a, t->a + 3 * ld};
    size_t k = t->K, pair = 0;
    if (t->ahead)
#pragma GCC unroll 6
        for (int i = 0; i < MR; i++)
            for (size_t d = 0; d < 4 * t->K; d += 64)
                _mm_prefetch(t->ahead + (size_t)i * ld + d, _MM_HINT_T0);
    for (; k >= SPACING && pair < pairs; k -= SPACING, pair++) {
        STEP(SCORE_ROWS, 0) STEP(SCORE_ROWS, 1)
        if (SPACING == 4) {
            STEP(SCORE_ROWS, 2) STEP(SCORE_ROWS, 3)
        }
        base[0] += 4 * SPACING, base[1] += 4 * SPACING;
        soften_pair(t->attention, t->p, t->scores, pair / NV, pair % NV, ROWS, NV);
    }
    for (; k >= 4; k -= 4) {
        STEP(SCORE_ROWS, 0) STEP(SCORE_ROWS, 1) STEP(SCORE_ROWS, 2) STEP(SCORE_ROWS, 3)
        base[0] += 16, base[1] += 16;
    }
    for (; k > 0; k--) {
        STEP(SCORE_ROWS, 0)
        base[0] += 4, base[1] += 4;
    }
    for (; pair < pairs; pair++)
        soften_pair(t->attention, t->p, t->scores, pair / NV, pair % NV, ROWS, NV);
    unsigned above = 0;
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) {
        __m512 max = acc[0][j];
        _mm512_store_ps(t->c + 16 * j, acc[0][j]);
#pragma GCC unroll 6
        for (int i = 1; i < MR; i++) {
            max = _mm512_max_ps(max, acc[i][j]);
            _mm512_store_ps(t->c + 16 * (i * NV + j), acc[i][j]);
        }
        above |= _mm512_cmp_ps_mask(max, _mm512_load_ps(t->attention->limit + 16 * j), _CMP_GT_OQ);
    }
    return above != 0;
}

TXK_INLINE void value_tile(const struct tile *t, const int MR, const int NV)
{
    __m512 acc[ROWS][VECTORS];
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++)
            acc[i][j] = _mm512_load_ps(t->c + 16 * (i * NV + j));
    const float *line = t->w;
    const size_t ld = t->lda;
    const char *base[2] = {t->a, t->a + 3 * ld};
    size_t k = t->K;
    for (; k >= 4; k -= 4) {
        STEP(VALUE_ROWS, 0) STEP(VALUE_ROWS, 1) STEP(VALUE_ROWS, 2) STEP(VALUE_ROWS, 3)
        base[0] += 4 * ld, base[1] += 4 * ld;
    }
    for (; k > 0; k--) {
        STEP(VALUE_ROWS, 0)
        base[0] += ld;
    }
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++)
            _mm512_store_ps(t->c + 16 * (i * NV + j), acc[i][j]);
}

#define TILE(MR, NV)                                                                                            \
    static int score_##MR##_##NV(const struct tile *t) { return score_tile(t, MR, NV); }                        \
    static void value_##MR##_##NV(const struct tile *t) { value_tile(t, MR, NV); }
#define TILES(NV) TILE(1, NV) TILE(2, NV) TILE(3, NV) TILE(4, NV) TILE(5, NV) TILE(6, NV)
TILES(1)
TILES(2) TILES(3) TILES(4)
#define NAMES(of, NV) {of##_1_##NV, of##_2_##NV, of##_3_##NV, of##_4_##NV, of##_5_##NV, of##_6_##NV}
    static int (*const score_tiles[VECTORS][ROWS])(const struct tile *) = {NAMES(score, 1), NAMES(score, 2), NAMES(score, 3),
                                                                           NAMES(score, 4)};
static void (*const value_tiles[VECTORS][ROWS])(const struct tile *) = {NAMES(value, 1), NAMES(value, 2), NAMES(value, 3),
                                                                        NAMES(value, 4)};

/* Bases rise to a tile's scores where these are above the limit, or `first`; out, sums and the probabilities of the first
 * `done` keys of the block shrink. */
static void rebase(struct attention *a, const float *scores, size_t rows, size_t done, int first)
{
    const size_t NV = a->NV;
    const __m512 factor = _mm512_set1_ps(a->factor);
    for (size_t g = 0; g < NV; g++) {
        __m512 max = _mm512_set1_ps(-FLT_MAX);
        for (size_t r = 0; r < rows; r++)
            max = _mm512_max_ps(max, _mm512_load_ps(scores + 16 * (r * NV + g)));
        /* The same comparison as the tile's, or a lane's bits would depend on its neighbours. */
        const __mmask16 higher = first ? 0xffff : _mm512_cmp_ps_mask(max, _mm512_load_ps(a->limit + 16 * g), _CMP_GT_OQ);
        if (!higher)
            continue;
        const __m512 old = _mm512_load_ps(a->base + 16 * g);
        const __m512 base =
            _mm512_mask_roundscale_ps(old, higher, _mm512_mul_ps(max, factor), _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
        _mm512_store_ps(a->base + 16 * g, base);
        /* Rounded down: above it times `factor` is never much more than base + 8, of whatever size the base is. */
        const __m512 above = _mm512_add_round_ps(base, _mm512_set1_ps(8.0f), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
        _mm512_store_ps(a->limit + 16 * g, _mm512_div_round_ps(above, factor, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
        if (first)
            continue;
        const __m512 shrink = _mm512_maskz_sub_ps(higher, old, base);
        _mm512_store_ps(a->sum + 16 * g, _mm512_scalef_ps(_mm512_load_ps(a->sum + 16 * g), shrink));
        for (size_t d = 0; d < a->Dh; d++)
            _mm512_store_ps(a->out + 16 * (d * NV + g), _mm512_scalef_ps(_mm512_load_ps(a->out + 16 * (d * NV + g)), shrink));
        for (size_t k = 0; k < done / PAIR; k++)
            shrink_line(a->p + 16 * (k * NV + g), shrink);
    }
}

/* out += p v of the block's `keys` from key t on. */
static void multiply_values(struct attention *a, size_t t, size_t keys)
{
    for (size_t d = 0; d < a->Dh; d += ROWS) {
        const size_t rows = a->Dh - d < ROWS ? a->Dh - d : ROWS;
        const struct tile tile = {.a = a->values + t / PAIR * a->ldv + 4 * d, .lda = a->ldv, .w = a->p,
                                  .K = (keys + PAIR - 1) / PAIR,
                                  .c = a->out + 16 * d * a->NV};
        value_tiles[a->NV - 1][rows - 1](&tile);
    }
}

/* The queries in a->q, whose lines a->NV vectors hold. */
static void attend(struct attention *a)
{
    const size_t Tk = a->Tk, NV = a->NV, line = 16 * NV, last = (Tk - 1) / ROWS * ROWS;
    for (size_t i = 0; i < line; i += 16) {
        _mm512_store_ps(a->base + i, _mm512_setzero_ps());
        _mm512_store_ps(a->limit + i, _mm512_setzero_ps());
        _mm512_store_ps(a->sum + i, _mm512_setzero_ps());
    }
    for (size_t i = 0; i < a->Dh * line; i += 16)
        _mm512_store_ps(a->out + i, _mm512_setzero_ps());
    struct tile s = {.lda = a->ldk, .w = a->q, .K = a->steps, .attention = a};
    for (size_t t = 0; t < Tk; t += ROWS) {
        const size_t keys = Tk - t < ROWS ? Tk - t : ROWS, block = t / BLOCK * BLOCK;
        s.a = a->keys + t * a->ldk;
        s.c = a->scores[t / ROWS % 2];
        s.bias = a->bias ? a->bias - t : NULL;
        s.ahead = PAIR == 2 && t + 2 * ROWS <= Tk ? s.a + ROWS * a->ldk : NULL; /* float32 was no faster for it */
        const int above = score_tiles[NV - 1][keys - 1](&s);
        if (t == block && t > 0)
            multiply_values(a, t - BLOCK, BLOCK);
        if (above || t == 0)
            rebase(a, s.c, keys, t - block, t == 0);
        s.scores = s.c;
        s.p = a->p + (t - block) / PAIR * line;
    }
    for (size_t g = 0; g < NV; g++)
        for (size_t pair = 0; 2 * pair < Tk - last; pair++)
            soften_pair(a, s.p, s.scores, pair, g, Tk - last, NV);
    const size_t block = last / BLOCK * BLOCK;
    multiply_values(a, block, Tk - block);
}

/* 16 rows of the output, times `share`, from group g and column d on. */
TXK_INLINE void turn_output(const struct attention *a, size_t g, size_t d, __m512 share, __m512i r[16])
{
    for (size_t i = 0; i < 16; i++)
        r[i] = d + i < a->Dh ? _mm512_castps_si512(_mm512_mul_ps(_mm512_load_ps(a->out + 16 * ((d + i) * a->NV + g)), share))
                             : _mm512_setzero_si512();
    transpose_32x16x16(r);
}

#endif
