/* attention_int8: out[Tq,Dh] = softmax(scale q k^T) v of one head, bfloat16 outside, both products in int8. A row that
 * includes this defines FOUR_ROW_AT and FOUR_ROW_PLAIN, its multiplication, and PAIRED.
 *
 * Once a call
 *   pack_keys        k less its mean over the keys, which softmax does not see, in int8 with a scale a row
 *   pack_values      v less its mean over the keys, in int8 with a scale a channel and block of BLOCK keys
 * for each QUERIES rows
 *   quantize_queries q in int8 with a scale a row, as q + 128; sums of a key begin at -128 times the sum of its row
 * and for each block of keys
 *   score            scores but for the query's scale, as float32
 *   find_most        each row's maximum in the block
 *   rebase           its sum and outputs take that up
 *   soften           a row's scores -> bytes of 255 times 2^(t - m), m the block's maximum: diffuse attention keeps a digit
 *                    more than relative to the row's
 *   gather           the bytes times v, exact in int32, then times their scales into float32
 * and at the end out / sum + the mean of v, as bfloat16.
 *
 * Both products are of an unsigned byte, a broadcast four of them, and signed ones. PAIRED: vpmaddubsw adds pairs in 16 bits,
 * so what is packed has scales by which two neighbours of one sign are 127 together at most, rounded 128: 255 x 128 is below
 * 2^15. That leaves 7.7 of 8 bits. Where neighbouring channels of k mostly have one sign, the second one of q and k changes it,
 * which changes no score.
 *
 * Panels of keys: [Tk/16][Dh/4][16][4], four of Dh of a key side by side; of values: [blocks][Dh/16][BLOCK/4][16][4], four
 * keys of a channel.
 *
 * A row's arithmetic depends on its q, k, v, Tk and Dh alone. A row of q with a NaN or Inf comes out as NaN, so does a channel
 * of v, and all where k holds one; so does what differences of k or v from their mean, or a row's scores, may take past
 * float32. */
#ifndef TXK_AVX2_ATTENTION_INT8_H
#define TXK_AVX2_ATTENTION_INT8_H

#include <float.h>
#include <math.h>

#include "polynomials.h"
#include "quantize.h"
#include "tile.h"

enum { QUERIES = 24, BLOCK = 128 };

#define LINED __attribute__((aligned(32)))
#define LESS 0x1p-15f /* of sums of outputs and of weights, which then do not pass float32 before values do */

struct attention {
    size_t Tk, Dh;
    size_t fours, Dp;           /* Dh / 4 up; Dh up to a multiple of 16 */
    size_t ldq;                 /* bytes of a row of q */
    size_t blocks;
    int8_t *keys, *values;
    float *key_scale;           /* [Tk up to a multiple of 16], the largest is 1 */
    int32_t *key_begin;         /* the same */
    float *value_scale;         /* [blocks][Dp], times LESS */
    float *key_mean, *value_mean;   /* [Dp] */
    float *sign;                /* [Dp] 1 or -1, of a channel of q and k */
    uint8_t *q;                 /* [QUERIES, ldq] */
    float *scores;              /* [QUERIES, BLOCK] */
    uint8_t *weights;           /* the same */
    float *out;                 /* [QUERIES, Dp] */
    float scale;                /* of q k, with log2(e) and what the keys' scales are relative to */
    int bad;                    /* NaN or Inf in k */
    /* Of each row: a power of two for a score, NaN for a lost row; the power of two that out and sum are relative to; and the
     * block's. */
    float factor[QUERIES] LINED, base[QUERIES] LINED, sum[QUERIES] LINED, share[QUERIES] LINED;
    float most[QUERIES] LINED;  /* of a row's scores in the block, before the factor */
};

/* 32 bytes from 32 - n on: n of them are set. */
static const uint8_t first_bytes[64] = {[0 ... 31] = 0xff};

static size_t up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static size_t carve(struct attention *a, char *scratch)
{
    char *p = scratch;
    const size_t Tp = up(a->Tk, PANEL);
    a->fours = (a->Dh + 3) / 4, a->Dp = up(a->Dh, PANEL), a->ldq = up(a->Dh, 32), a->blocks = (a->Tk + BLOCK - 1) / BLOCK;
    a->keys = (int8_t *)p, p += Tp * a->fours * 4;
    a->values = (int8_t *)p, p += a->blocks * BLOCK * a->Dp;
    a->key_scale = (float *)p, p += Tp * sizeof(float);
    a->key_begin = (int32_t *)p, p += Tp * sizeof(int32_t);
    a->value_scale = (float *)p, p += a->blocks * a->Dp * sizeof(float);
    a->key_mean = (float *)p, p += a->Dp * sizeof(float);
    a->value_mean = (float *)p, p += a->Dp * sizeof(float);
    a->sign = (float *)p, p += a->Dp * sizeof(float);
    a->q = (uint8_t *)p, p += QUERIES * a->ldq;
    a->scores = (float *)p, p += QUERIES * BLOCK * sizeof(float);
    a->weights = (uint8_t *)p, p += QUERIES * BLOCK;
    a->out = (float *)p, p += QUERIES * a->Dp * sizeof(float);
    return (size_t)(p - scratch);
}

TXK_INLINE __m256 elements(const uint16_t *row, size_t d, size_t Dh)
{
    return d < Dh ? load_bf16x8(row + d, Dh - d) : _mm256_setzero_ps();
}

/* mean[Dp] over the T rows of x. */
static void average(float *mean, const uint16_t *x, size_t ld, size_t T, size_t Dh, size_t Dp)
{
    const __m256 part = _mm256_set1_ps(1.0f / (float)T); /* of each, or the sum might pass float32 */
    for (size_t d = 0; d < Dp; d += 16) {
        __m256 low = _mm256_setzero_ps(), high = low;
        for (size_t t = 0; t < T; t++) {
            low = _mm256_fmadd_ps(elements(x + t * ld, d, Dh), part, low);
            high = _mm256_fmadd_ps(elements(x + t * ld, d + 8, Dh), part, high);
        }
        _mm256_store_ps(mean + d, low);
        _mm256_store_ps(mean + d + 8, high);
    }
}

/* What a scale is chosen by: of each lane the larger magnitude or, PAIRED, the larger of two sums, of what is positive of x and
 * y and of what is negative. NaN stays. */
TXK_INLINE __m256 extent(__m256 x, __m256 y)
{
    if (!PAIRED)
        return _mm256_castsi256_ps(max_magnitude(max_magnitude(_mm256_setzero_si256(), x), y));
    const __m256 zero = _mm256_setzero_ps();
    const __m256 positive = _mm256_add_ps(_mm256_max_ps(zero, x), _mm256_max_ps(zero, y));
    const __m256 negative = _mm256_add_ps(_mm256_min_ps(zero, x), _mm256_min_ps(zero, y));
    return _mm256_max_ps(_mm256_sub_ps(zero, negative), positive);
}

/* 8 bytes, of integers that fit. */
TXK_INLINE int64_t bytes_of(__m256i q)
{
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    return _mm_cvtsi128_si64(_mm_packs_epi16(words, words));
}

/* -1 for the second channel of a pair whose numbers have one sign more often than two. */
static void choose_signs(struct attention *a, const struct tx_attention_bf16 *job)
{
    const __m256 one = _mm256_set1_ps(1.0f), second = _mm256_castsi256_ps(_mm256_set1_epi64x((int64_t)0x8000000000000000));
    for (size_t d = 0; d < a->Dp; d += 8) {
        const __m256 mean = _mm256_load_ps(a->key_mean + d);
        __m256i alike = _mm256_setzero_si256();
        for (size_t t = 0; t < a->Tk; t++) {
            const __m256 x = _mm256_sub_ps(elements(job->k + t * job->ldk, d, a->Dh), mean);
            const __m256i differ = _mm256_castps_si256(_mm256_xor_ps(x, _mm256_permute_ps(x, 0xb1)));
            alike = _mm256_add_epi32(alike, _mm256_or_si256(_mm256_srai_epi32(differ, 31), _mm256_set1_epi32(1)));
        }
        const __m256 flip = _mm256_castsi256_ps(_mm256_cmpgt_epi32(alike, _mm256_setzero_si256()));
        _mm256_store_ps(a->sign + d, _mm256_xor_ps(one, _mm256_and_ps(flip, second)));
    }
}

TXK_INLINE __m256 signed_channels(const struct attention *a, __m256 x, size_t d)
{
    return PAIRED ? _mm256_mul_ps(x, _mm256_load_ps(a->sign + d)) : x;
}

/* Channels d.. of a key as they are packed, but for its scale. */
TXK_INLINE __m256 centred_key(const struct attention *a, const uint16_t *k, size_t d)
{
    return signed_channels(a, _mm256_sub_ps(elements(k, d, a->Dh), _mm256_load_ps(a->key_mean + d)), d);
}

static void pack_keys(struct attention *a, const struct tx_attention_bf16 *job)
{
    float most = 0;
    average(a->key_mean, job->k, job->ldk, a->Tk, a->Dh, a->Dp);
    if (PAIRED)
        choose_signs(a, job);
    a->bad = 0;
    for (size_t t = 0; t < up(a->Tk, PANEL); t++) {
        const uint16_t *k = job->k + (t < a->Tk ? t : a->Tk - 1) * job->ldk; /* the last again for those behind it */
        __m256i max = _mm256_setzero_si256();
        for (size_t d = 0; d < a->Dh; d += 8) {
            const __m256 x = centred_key(a, k, d);
            max = max_magnitude(max, extent(x, _mm256_permute_ps(x, 0xb1)));
        }
        const struct row_scale s = scale_of_max(max);
        a->bad |= s.scale != s.scale;
        a->key_scale[t] = s.scale;
        most = s.scale > most ? s.scale : most;
        int8_t *to = a->keys + t / PANEL * PANEL * a->fours * 4 + t % PANEL * 4;
        __m256i sum = _mm256_setzero_si256();
        for (size_t d = 0; d < a->Dh; d += 8, to += 2 * PANEL * 4) {
            const __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(centred_key(a, k, d), _mm256_set1_ps(s.factor)));
            const int64_t eight = bytes_of(q);
            const int32_t low = (int32_t)eight, high = (int32_t)(eight >> 32);
            sum = _mm256_add_epi32(sum, q);
            memcpy(to, &low, sizeof low);
            if (d + 4 < a->Dh)
                memcpy(to + PANEL * 4, &high, sizeof high);
        }
        a->key_begin[t] = (int32_t)(-128u * (uint32_t)sum_of_i32x8(sum)); /* of no numbers it may be any */
    }
    for (size_t t = 0; t < up(a->Tk, PANEL); t++)
        a->key_scale[t] /= most;
    a->scale *= most;
}

static void pack_values(struct attention *a, const struct tx_attention_bf16 *job)
{
    const __m256i byte = _mm256_set1_epi16(255);
    average(a->value_mean, job->v, job->ldv, a->Tk, a->Dh, a->Dp);
    for (size_t b = 0; b < a->blocks; b++)
        for (size_t d = 0; d < a->Dp; d += 8) {
            const uint16_t *v = job->v + b * BLOCK * job->ldv;
            const size_t count = a->Tk - b * BLOCK < BLOCK ? a->Tk - b * BLOCK : BLOCK;
            const __m256 mean = _mm256_load_ps(a->value_mean + d);
            float factor[8], largest[8];
            __m256i max = _mm256_setzero_si256();
            for (size_t t = 0; t < count; t += 2) {
                const __m256 x = _mm256_sub_ps(elements(v + t * job->ldv, d, a->Dh), mean);
                const size_t next = t + 1 < count ? t + 1 : t;
                const __m256 y = next == t ? _mm256_setzero_ps() : _mm256_sub_ps(elements(v + next * job->ldv, d, a->Dh), mean);
                max = max_magnitude(max, extent(x, y));
            }
            _mm256_storeu_ps(largest, _mm256_castsi256_ps(max));
            for (size_t i = 0; i < 8; i++) {
                const struct row_scale s = scale_of_largest(largest[i]);
                a->value_scale[b * a->Dp + d + i] = s.scale * LESS;
                factor[i] = s.factor;
            }
            int8_t *to = a->values + b * BLOCK * a->Dp + d / PANEL * PANEL * BLOCK + d % PANEL * 4;
            const __m256 factors = _mm256_loadu_ps(factor);
            for (size_t t = 0; t < count; t += 4, to += PANEL * 4) {
                __m256i q[4];
#pragma GCC unroll 4
                for (size_t i = 0; i < 4; i++) {
                    q[i] = _mm256_setzero_si256();
                    if (t + i < count)
                        q[i] = _mm256_cvtps_epi32(
                            _mm256_mul_ps(_mm256_sub_ps(elements(v + (t + i) * job->ldv, d, a->Dh), mean), factors));
                }
                /* A channel's four bytes, from words of two and two keys. */
                const __m256i even = _mm256_blend_epi16(q[0], _mm256_slli_epi32(q[2], 16), 0xaa);
                const __m256i odd = _mm256_blend_epi16(q[1], _mm256_slli_epi32(q[3], 16), 0xaa);
                _mm256_store_si256((__m256i *)to, _mm256_or_si256(_mm256_and_si256(even, byte), _mm256_slli_epi16(odd, 8)));
            }
        }
}

static void quantize_queries(struct attention *a, const uint16_t *q, size_t ldq, size_t rows)
{
    for (size_t m = 0; m < rows; m++, q += ldq) {
        __m256i max = _mm256_setzero_si256();
        for (size_t d = 0; d < a->Dh; d += 8)
            max = max_magnitude(max, elements(q, d, a->Dh));
        const struct row_scale s = scale_of_max(max);
        const __m256 factor = _mm256_set1_ps(s.factor);
        for (size_t d = 0; d < a->Dh; d += 8) {
            const __m256 x = signed_channels(a, elements(q, d, a->Dh), d);
            const int64_t eight = bytes_of(_mm256_cvtps_epi32(_mm256_mul_ps(x, factor))) ^ (int64_t)0x8080808080808080;
            memcpy(a->q + m * a->ldq + d, &eight, sizeof eight);
        }
        a->factor[m] = s.scale * a->scale;
        if (!(a->factor[m] < INFINITY) || a->bad)
            a->factor[m] = NAN;
    }
}

/* acc[i] += four of row i of `base` times the fours of w, for one row i and one step q (both literals). Rows 3g, 3g + 1 and
 * 3g + 2 lie 0, 1 and 2 ld past base[g], as in tile.h; FOUR_ROW_AT multiplies, in assembly, or FOUR_ROW_PLAIN. */
#if defined(__SANITIZE_ADDRESS__)
#define FOUR_ROW(i, q)                                                                \
    if (MR > i) {                                                                     \
        int32_t four;                                                                 \
        memcpy(&four, base[i / 3] + i % 3 * ld + 4 * q, sizeof four);                 \
        FOUR_ROW_PLAIN(i, _mm256_set1_epi32(four))                                    \
    }
#else
#define FOUR_ROW(i, q)                                                                \
    if (MR > i && i % 3 == 0) FOUR_ROW_AT(i, #q "*4(%[base])")                        \
    if (MR > i && i % 3 == 1) FOUR_ROW_AT(i, #q "*4(%[base],%[ld])")                  \
    if (MR > i && i % 3 == 2) FOUR_ROW_AT(i, #q "*4(%[base],%[ld],2)")
#endif
#define FOUR(q)                                                                                                      \
    {                                                                                                                \
        const __m256i w0 = _mm256_load_si256(w + 2 * q), w1 = _mm256_load_si256(w + 2 * q + 1);                      \
        FOUR_ROW(0, q) FOUR_ROW(1, q) FOUR_ROW(2, q) FOUR_ROW(3, q) FOUR_ROW(4, q) FOUR_ROW(5, q)                    \
    }

/* acc += MR rows of bytes, ld apart, by n fours of a panel. */
TXK_INLINE void multiply(__m256i acc[TILE_ROWS][2], const uint8_t *rows, size_t ld, const int8_t *panel, size_t n, const int MR)
{
    const char *base[2] = {(const char *)rows, (const char *)rows + (MR > 3 ? 3 * ld : 0)};
    const __m256i *w = (const __m256i *)panel;
    for (; n >= 2; n -= 2, w += 4, base[0] += 8, base[1] += 8) {
        FOUR(0)
        FOUR(1)
    }
    if (n)
        FOUR(0)
}

/* Where a tile of a product is, and what its sums become. */
struct tile {
    struct attention *a;
    size_t m;                   /* the first row */
    size_t b, at;               /* the block; the first key within it, or the first channel */
    size_t n;                   /* fours */
};

/* Scores of 16 keys with MR queries, but for the queries' factors. */
TXK_INLINE void score(const struct tile *t, const int MR)
{
    const struct attention *a = t->a;
    const size_t key = t->b * BLOCK + t->at;
    __m256i acc[TILE_ROWS][2];
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < 2; j++)
            acc[i][j] = _mm256_load_si256((const __m256i *)(a->key_begin + key + 8 * j));
    multiply(acc, a->q + t->m * a->ldq, a->ldq, a->keys + key * a->fours * 4, a->fours, MR);
    float *to = a->scores + t->m * BLOCK + t->at;
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < 2; j++)
            _mm256_store_ps(to + i * BLOCK + 8 * j,
                            _mm256_mul_ps(_mm256_cvtepi32_ps(acc[i][j]), _mm256_load_ps(a->key_scale + key + 8 * j)));
}

/* 16 channels of MR rows' outputs get a block's share. */
TXK_INLINE void gather(const struct tile *t, const int MR)
{
    const struct attention *a = t->a;
    __m256i acc[TILE_ROWS][2];
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < 2; j++)
            acc[i][j] = _mm256_setzero_si256();
    multiply(acc, a->weights + t->m * BLOCK, BLOCK, a->values + t->b * BLOCK * a->Dp + t->at * BLOCK, t->n, MR);
    float *to = a->out + t->m * a->Dp + t->at;
    const float *scale = a->value_scale + t->b * a->Dp + t->at;
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < 2; j++) {
            const __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[i][j]), _mm256_load_ps(scale + 8 * j));
            float *at = to + i * a->Dp + 8 * j;
            _mm256_store_ps(at, _mm256_fmadd_ps(sum, _mm256_set1_ps(a->share[t->m + i]), _mm256_load_ps(at)));
        }
}

typedef void tile_function(const struct tile *);
#define TILES(MR)                                                    \
    static void score_##MR(const struct tile *t) { score(t, MR); } \
    static void gather_##MR(const struct tile *t) { gather(t, MR); }
TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)
static tile_function *const score_tiles[] = {score_1, score_2, score_3, score_4, score_5, score_6};
static tile_function *const gather_tiles[] = {gather_1, gather_2, gather_3, gather_4, gather_5, gather_6};

static void in_tiles(struct attention *a, tile_function *const *tiles, size_t rows, size_t b, size_t at, size_t n)
{
    const size_t parts = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (size_t i = 0; i < parts; i++) {
        const size_t m = part_begin(rows, parts, i);
        tiles[part_begin(rows, parts, i + 1) - m - 1](&(struct tile){.a = a, .m = m, .b = b, .at = at, .n = n});
    }
}

/* The largest score of each row in the block, of `count` keys: those up to a whole panel are the last one's again. */
static void find_most(struct attention *a, size_t rows, size_t count)
{
    for (size_t m = 0; m < rows; m++) {
        const float *scores = a->scores + m * BLOCK;
        __m256 max[2] = {_mm256_load_ps(scores), _mm256_load_ps(scores + 8)};
        for (size_t k = PANEL; k < count; k += PANEL)
            for (int j = 0; j < 2; j++)
                max[j] = _mm256_max_ps(max[j], _mm256_load_ps(scores + k + 8 * j));
        a->most[m] = max_of_f32x8(_mm256_max_ps(max[0], max[1]));
    }
}

/* Each row's base, sum and outputs take up the block's maximum, 8 rows at a time. */
static void rebase(struct attention *a, size_t rows, int first)
{
    for (size_t m = 0; m < rows; m += 8) {
        const __m256 power = _mm256_mul_ps(_mm256_load_ps(a->most + m), _mm256_load_ps(a->factor + m));
        const __m256 before = first ? power : _mm256_load_ps(a->base + m), base = _mm256_max_ps(before, power);
        const __m256 shrink = exp2_f32x8(_mm256_sub_ps(before, base));
        _mm256_store_ps(a->base + m, base);
        _mm256_store_ps(a->share + m, exp2_f32x8(_mm256_sub_ps(power, base)));
        _mm256_store_ps(a->sum + m, _mm256_mul_ps(_mm256_load_ps(a->sum + m), shrink));
        const int higher = _mm256_movemask_ps(_mm256_cmp_ps(power, before, _CMP_GT_OQ));
        float by[8];
        _mm256_storeu_ps(by, shrink);
        for (size_t i = 0; i < 8 && m + i < rows; i++)
            for (size_t d = 0; higher >> i & 1 && d < a->Dp; d += 8) {
                float *out = a->out + (m + i) * a->Dp + d;
                _mm256_store_ps(out, _mm256_mul_ps(_mm256_load_ps(out), _mm256_set1_ps(by[i])));
            }
    }
}

/* 256 times 2^(t / 2048), within 0.53, of 16 integers below 0: the whole part by a table, what is left by a polynomial. */
TXK_INLINE __m256i exp2_i16x16(__m256i t)
{
#define Q15(x) _mm256_set1_epi16((int16_t)((x)*0x1p15f + 0.5f))
    /* 2^(16 + n) has its one bit in the upper byte of a word for -8 <= n: the lower half of 16 + n looks it up, and an index
     * with the highest bit set is a zero for the lower byte. */
    const __m256i powers = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, -128));
    const __m256i power = _mm256_shuffle_epi8(powers, _mm256_or_si256(_mm256_srli_epi16(t, 3), _mm256_set1_epi16(0x80)));
    const __m256i f = _mm256_and_si256(_mm256_slli_epi16(t, 4), _mm256_set1_epi16(0x7fff));
    __m256i p = _mm256_add_epi16(_mm256_mulhrs_epi16(f, Q15(poly_exp2_short[3])), Q15(poly_exp2_short[2]));
    p = _mm256_add_epi16(_mm256_mulhrs_epi16(f, p), Q15(poly_exp2_short[1]));
    p = _mm256_add_epi16(_mm256_mulhrs_epi16(f, p), _mm256_set1_epi16(-0x8000)); /* 1, of unsigned words */
    /* And what becomes 1 from 1/2 up, since there 2^(16 + n) has no bit in the upper byte. */
    const __m256i one = _mm256_srli_epi16(_mm256_cmpgt_epi16(t, _mm256_set1_epi16(-9 * 2048 - 1)), 9);
    return _mm256_srli_epi16(_mm256_add_epi16(_mm256_max_epi16(_mm256_mulhi_epu16(p, power), one), _mm256_set1_epi16(64)), 7);
#undef Q15
}

/* A row's scores become bytes, whose sum the row's takes up. Scores past `count` may be anything: their bytes are 0. */
static void soften(struct attention *a, size_t m, size_t count)
{
    /* First the difference, which is exactly 0 at the maximum however large the scores are: 256 times 2^TOP is 255. */
    enum { STEPS = 2048, TOP = -12 };
    const float *scores = a->scores + m * BLOCK, steps = a->factor[m] * STEPS;
    const __m256 base = _mm256_set1_ps(a->most[m]), factor = _mm256_set1_ps(steps < FLT_MAX ? steps : FLT_MAX);
    __m256i sum = _mm256_setzero_si256();
    for (size_t k = 0; k < count; k += 32) {
        __m256i t[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            t[j] = _mm256_cvtps_epi32(_mm256_fmadd_ps(_mm256_sub_ps(_mm256_load_ps(scores + k + 8 * j), base), factor,
                                                      _mm256_set1_ps(TOP)));
        __m256i bytes = _mm256_packus_epi16(exp2_i16x16(_mm256_packs_epi32(t[0], t[1])),
                                            exp2_i16x16(_mm256_packs_epi32(t[2], t[3])));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        if (k + 32 > count)
            bytes = _mm256_and_si256(bytes, _mm256_loadu_si256((const __m256i *)(first_bytes + 32 - (count - k))));
        sum = _mm256_add_epi64(sum, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
        _mm256_store_si256((__m256i *)(a->weights + m * BLOCK + k), bytes);
    }
    a->sum[m] += a->share[m] * ((float)sum_of_i32x8(sum) * LESS);
}

static void store_row(const struct attention *a, uint16_t *out, size_t m)
{
    const __m256 share = _mm256_set1_ps(a->factor[m] != a->factor[m] ? NAN : 1.0f / a->sum[m]);
    for (size_t d = 0; d < a->Dh; d += 8)
        store_bf16x8(out + d, a->Dh - d, _mm256_fmadd_ps(_mm256_load_ps(a->out + m * a->Dp + d), share,
                                                         _mm256_load_ps(a->value_mean + d)));
}

TXK_INLINE size_t attention_int8_scratch(size_t Tk, size_t Dh)
{
    struct attention a = {.Tk = Tk, .Dh = Dh};
    return carve(&a, NULL);
}

TXK_INLINE void attend_int8(const struct tx_attention_bf16 *job)
{
    struct attention a = {.Tk = job->Tk, .Dh = job->Dh, .scale = job->scale * 1.44269504088896341f};
    carve(&a, job->scratch);
    pack_keys(&a, job);
    pack_values(&a, job);
    for (size_t q0 = 0; q0 < job->Tq; q0 += QUERIES) {
        const size_t rows = job->Tq - q0 < QUERIES ? job->Tq - q0 : QUERIES;
        quantize_queries(&a, job->q + q0 * job->ldq, job->ldq, rows);
        memset(a.sum, 0, sizeof a.sum);
        memset(a.out, 0, rows * a.Dp * sizeof *a.out);
        for (size_t b = 0; b < a.blocks; b++) {
            const size_t count = a.Tk - b * BLOCK < BLOCK ? a.Tk - b * BLOCK : BLOCK;
            for (size_t t = 0; t < count; t += PANEL)
                in_tiles(&a, score_tiles, rows, b, t, a.fours);
            find_most(&a, rows, count);
            rebase(&a, rows, b == 0);
            for (size_t m = 0; m < rows; m++)
                soften(&a, m, count);
            for (size_t d = 0; d < a.Dp; d += PANEL)
                in_tiles(&a, gather_tiles, rows, b, d, (count + 3) / 4);
        }
        for (size_t m = 0; m < rows; m++)
            store_row(&a, job->out + (q0 + m) * job->ldo, m);
    }
}

#endif
