/* attention_int8: out[Tq,Dh] = softmax(scale q k^T) v of one head, bfloat16 outside, both products in int8. A row that includes
 * this defines ADD_PRODUCT(sum, line, row), which adds to each dword of `sum` the products of four unsigned bytes of `line` and
 * four signed ones of `row`, and PAIRED.
 *
 * Passes, once a call:
 *   1. pack_keys     k less its mean over the keys, which softmax does not see, in int8 with a scale a row
 *   2. pack_values   v less its mean over the keys, in int8 with a scale a channel and block of 64 keys
 * for every 32 queries:
 *   3. turn_queries  q in int8 with a scale a row, as q + 128: the instructions take one factor unsigned. Sums of a key
 *                    begin at -128 times the sum of its row
 * and for every block of 64 keys:
 *   4. multiply_keys     scores as words, for the block ahead; their maxima
 *   5. begin_block       the block's maximum m of each query, and the weight 2^(m - base) that the block will have
 *   6. soften_some       words -> probabilities, bytes of 255 times 2^(t - m), four keys at a time
 *   7. multiply_values   the output of the block behind, exact in int32, times its weight into float32
 *   8. add_sums          the rounded bytes into the sum of each query
 * and at the end of the 32 queries:
 *   9. store_rows    out / sum + the mean of v, turned back, as bfloat16
 *
 * Passes 4, 6 and 7 go by in a pipeline of three blocks, a tile of either product and a few probabilities in turn:
 *
 *   block       b - 1                b                     b + 1
 *   pass        7 multiply_values    6 soften_some         4 multiply_keys
 *   reads       weights, values      scores                q, keys
 *   writes      out                  weights               scores
 *
 * All is transposed. A vector holds 16 queries, whose maxima and sums need no reduction across lanes:
 *
 *               32 queries                                  eight rows of the other factor, dwords side by side
 *             +-----------+                                 keys    [Tk/8][Dh/4][8]
 *     keys    |  scores   |  [64 keys, 32]                  values  [blocks][Dh/8][64/4][8]
 *             +-----------+                                 a dword is four elements of Dh, or four keys
 *     Dh      |  out      |  [Dh, 32]                       one broadcast dword by a line of 32 queries' dwords:
 *             +-----------+                                 8 rows x 2 vectors = 16 sums in registers
 *
 * Numbers. A probability is relative to the maximum of its own block: diffuse attention keeps a digit more than relative to
 * the row's. A score is a word of 16 bits in units that a whole head shares and that no score can pass; times a query's factor
 * it counts 64ths of a power of two, so 2^(t - m) is a table's entry for the last six bits, shifted by the others (0.54% at
 * most, 0.31% RMS, against half a unit of 255 from the rounding). A query whose scores may pass 512 powers of two (`steep`)
 * has coarser steps: by then int8 has left no digit that these would drop.
 *
 * PAIRED, as in ../avx2/attention_int8.h: the instruction adds pairs of products in 16 bits, so two neighbours of a key, or two
 * keys of a channel of v, that have one sign are 127 together at most, rounded 128; and the second of two channels changes its
 * sign in q and k where they mostly have one.
 *
 * A lane's arithmetic depends on its q, k, v, Tk and Dh alone. A row of q with a NaN or Inf comes out as NaN, so does a channel
 * of v, and all where k holds one; so does a row whose scores may pass float32. */
#ifndef TXK_AVX512_ATTENTION_INT8_H
#define TXK_AVX512_ATTENTION_INT8_H

#include <math.h>

#include "simd_narrow.h"

enum { KEYS = 64, QUERIES = 32, ROWS = 8, LINE = QUERIES * 4 /* bytes of a row of scores, or of 32 dwords */ };

struct attention {
    size_t Tk, Dh;
    size_t steps, Dm;       /* Dh / 4 up; Dh up to a multiple of ROWS */
    size_t Dw;              /* Dh up to a multiple of 64 */
    size_t blocks;
    char *keys;             /* [Tk/8][steps][8] dwords, for Tk up to a multiple of 16 */
    float *key_scale;       /* [Tk up], from a sum to a word */
    int32_t *key_begin;     /* the same */
    float *key_mean, *value_mean;   /* [Dw] */
    float *sign;            /* [Dw] 1 or -1, of a channel of q and k; PAIRED only */
    char *values;           /* [blocks][Dm/8][KEYS/4][8] dwords */
    float *value_scale;     /* [blocks][Dw] */
    char *q;                /* [steps up to 16][32] dwords */
    char *scores[2];        /* [KEYS/2][2][16 queries' pairs of words, as packs_epi32 leaves them] */
    char *weights[2];       /* [KEYS/4][32] dwords */
    char *out;              /* [Dh up to 32][32] floats */
    float scale;            /* of q k, with log2(e) and what a word of scores stands for */
    int bad;                /* NaN or Inf in k */
    int wide;               /* more than 16 queries */
    int steep;              /* some `power` is not 0 */
    /* Words in the order of packs_epi32(x, x), x a dword a query. */
    __m512i factor[2];      /* of a word of scores, 2^-15: gives 2^-power units */
    __m512i power[2];
    __m512i max[2][2];      /* by parity of the block: of scores before `factor` */
    __m512i offset[2];      /* of the block that is made probabilities of */
    __m512 log2[2];         /* what a word of scores is, as a power of two */
    __m512 share[2][2];     /* by parity: 2^(m - base) */
    __m512 base[2], sum[2];
    __mmask16 lost[2];
};

enum {
    UNIT = 64,              /* steps of a power of two */
    TOP = 7 * UNIT,         /* so far below 0 is the largest probability: then its shift is the complement of its integer */
    WORD = 32767, BYTE = 127,
};

/* 2^15 255/256 2^(i/64) */
static const uint16_t powers_of_2[64] __attribute__((aligned(64))) = {
    32640, 32995, 33355, 33718, 34085, 34456, 34831, 35211, 35594, 35982, 36374, 36770, 37170, 37575, 37984, 38398,
    38816, 39238, 39666, 40098, 40534, 40976, 41422, 41873, 42329, 42790, 43256, 43727, 44203, 44684, 45171, 45663,
    46160, 46663, 47171, 47684, 48204, 48729, 49259, 49796, 50338, 50886, 51440, 52000, 52566, 53139, 53717, 54302,
    54894, 55491, 56096, 56707, 57324, 57948, 58579, 59217, 59862, 60514, 61173, 61839, 62512, 63193, 63881, 64577,
};

static size_t up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static size_t carve(struct attention *a, char *scratch)
{
    char *p = scratch;
    a->steps = (a->Dh + 3) / 4, a->Dm = up(a->Dh, ROWS), a->Dw = up(a->Dh, 64), a->blocks = (a->Tk + KEYS - 1) / KEYS;
    a->keys = p, p += up(a->Tk, 16) * a->steps * 4;
    a->key_scale = (float *)p, p += up(a->Tk, 16) * 4;
    a->key_begin = (int32_t *)p, p += up(a->Tk, 16) * 4;
    a->key_mean = (float *)p, p += a->Dw * 4;
    a->value_mean = (float *)p, p += a->Dw * 4;
    a->sign = (float *)p, p += PAIRED ? a->Dw * 4 : 0;
    a->values = p, p += a->blocks * KEYS * a->Dm;
    a->value_scale = (float *)p, p += a->blocks * a->Dw * 4;
    a->q = p, p += up(a->steps, 16) * LINE;
    for (int i = 0; i < 2; i++) {
        a->scores[i] = p, p += KEYS * LINE / 2;
        a->weights[i] = p, p += KEYS / 4 * LINE;
    }
    a->out = p, p += up(a->Dh, 32) * LINE;
    return (size_t)(p - scratch);
}

TXK_INLINE __m512 element(const uint16_t *row, size_t d, size_t Dh)
{
    return f32_of_bf16x16(_mm256_maskz_loadu_epi16(d < Dh ? lanes_f32x16(Dh - d) : 0, row + d));
}

/* Rows lie pages apart, where no hardware looks ahead: `count` of them on their way while others are worked on. */
TXK_INLINE void fetch_rows(const uint16_t *rows, size_t ld, size_t count, size_t Dh)
{
    for (size_t r = 0; r < count; r++)
        for (size_t d = 0; d < Dh; d += 32)
            _mm_prefetch((const char *)(rows + r * ld + d), _MM_HINT_T0);
}

/* mean[Dw] over the T rows of x. */
static void average(float *mean, const uint16_t *x, size_t ld, size_t T, size_t Dh)
{
    const __m512 part = _mm512_set1_ps(1.0f / (float)T); /* of each, or the sum might pass float32 */
    for (size_t d = 0; d < Dh; d += 64) {
        __mmask16 lanes[4];
        __m512 sum[4];
        for (size_t j = 0; j < 4; j++) {
            lanes[j] = d + 16 * j < Dh ? lanes_f32x16(Dh - d - 16 * j) : 0;
            sum[j] = _mm512_setzero_ps();
        }
        for (size_t t = 0; t < T; t++) {
            fetch_rows(x + (t + 24) * ld + d, ld, t + 24 < T, Dh - d < 64 ? Dh - d : 64);
            for (size_t j = 0; j < 4; j++)
                sum[j] =
                    _mm512_fmadd_ps(f32_of_bf16x16(_mm256_maskz_loadu_epi16(lanes[j], x + t * ld + d + 16 * j)), part, sum[j]);
        }
        for (size_t j = 0; j < 4; j++)
            _mm512_store_ps(mean + d + 16 * j, sum[j]);
    }
}

/* 127 / max and the scales max / 127 of 16 rows or channels: 0 and 0 for zeros, so that a key that equals the mean has no say
 * in what a word of scores stands for; 0 and NaN where one is not finite. */
TXK_INLINE __m512 factors_of_max(__m512 max, __m512 *scale)
{
    const __m512 steps = _mm512_set1_ps(127.0f);
    const __mmask16 some = _mm512_cmp_ps_mask(max, _mm512_set1_ps(0x1p-100f), _CMP_GE_OQ);
    const __mmask16 finite = _mm512_cmp_ps_mask(max, _mm512_set1_ps(INFINITY), _CMP_LT_OQ);
    *scale = _mm512_maskz_div_ps(some, max, steps);
    *scale = _mm512_mask_blend_ps(finite, _mm512_set1_ps(NAN), *scale);
    return _mm512_maskz_div_ps(some & finite, steps, max);
}

/* What a scale is chosen by: of each lane the larger magnitude or, PAIRED, the larger of two sums, of what is positive of x and
 * y and of what is negative. NaN stays. */
TXK_INLINE __m512 extent(__m512 x, __m512 y)
{
    if (!PAIRED)
        return max_magnitude_f32x16(max_magnitude_f32x16(_mm512_setzero_ps(), x), y);
    const __m512 zero = _mm512_setzero_ps();
    const __m512 positive = _mm512_add_ps(_mm512_max_ps(zero, x), _mm512_max_ps(zero, y));
    const __m512 negative = _mm512_add_ps(_mm512_min_ps(zero, x), _mm512_min_ps(zero, y));
    return _mm512_max_ps(_mm512_sub_ps(zero, negative), positive);
}

TXK_INLINE __m512 swap_neighbours(__m512 x)
{
    return _mm512_permute_ps(x, 0xb1);
}

/* -1 for the second channel of a pair whose numbers have one sign more often than two. */
static void choose_signs(struct attention *a, const struct tx_attention_bf16 *job)
{
    for (size_t d = 0; d < a->Dw; d += 16) {
        const __m512 mean = _mm512_load_ps(a->key_mean + d);
        __m512i alike = _mm512_setzero_si512();
        for (size_t t = 0; t < a->Tk; t++) {
            const __m512 x = _mm512_sub_ps(element(job->k + t * job->ldk, d, a->Dh), mean);
            const __m512i differ = _mm512_castps_si512(_mm512_xor_ps(x, swap_neighbours(x)));
            alike = _mm512_add_epi32(alike, _mm512_or_si512(_mm512_srai_epi32(differ, 31), _mm512_set1_epi32(1)));
        }
        const __mmask16 flip = _mm512_cmpgt_epi32_mask(alike, _mm512_setzero_si512()) & 0xaaaa;
        _mm512_store_ps(a->sign + d, _mm512_mask_blend_ps(flip, _mm512_set1_ps(1.0f), _mm512_set1_ps(-1.0f)));
    }
}

/* What becomes of rows of q or k before they are rounded: less `mean` where there is one, times `sign` where PAIRED. */
struct channels {
    size_t Dh;
    const float *mean, *sign;
};

/* 64 elements of a row from d on. */
TXK_INLINE void centred(__m512 x[4], const uint16_t *row, size_t d, struct channels c)
{
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        x[j] = _mm512_setzero_ps();
        if (d + 16 * j < c.Dh)
            x[j] = f32_of_bf16x16(_mm256_maskz_loadu_epi16(lanes_f32x16(c.Dh - d - 16 * j), row + d + 16 * j));
        if (c.mean && d + 16 * j < c.Dh)
            x[j] = _mm512_sub_ps(x[j], _mm512_load_ps(c.mean + d + 16 * j));
        if (PAIRED && d + 16 * j < c.Dh)
            x[j] = _mm512_mul_ps(x[j], _mm512_load_ps(c.sign + d + 16 * j));
    }
}

/* Factors that make int8 of 16 rows, the last one again for those behind it, and their scales; `pairs`: of extents. */
TXK_INLINE __m512 factors_of_rows(__m512 *scale, const uint16_t *x, size_t ld, size_t count, struct channels c, const int pairs)
{
    __m512i most[16];
    for (size_t i = 0; i < 16; i++) {
        __m512 max = _mm512_setzero_ps(), e[4];
        for (size_t d = 0; d < c.Dh; d += 64) {
            centred(e, x + (i < count ? i : count - 1) * ld, d, c);
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++)
                max = max_magnitude_f32x16(max, pairs ? extent(e[j], swap_neighbours(e[j])) : e[j]);
        }
        most[i] = _mm512_castps_si512(max);
    }
    transpose_32x16x16(most);
    for (size_t i = 1; i < 16; i++)
        most[0] = _mm512_max_epi32(most[0], most[i]);
    return factors_of_max(_mm512_castsi512_ps(most[0]), scale);
}

/* 64 columns of those rows in int8, turned: lanes are rows, r[i] is dword 4 (i % 4) + i / 4. What is no number may become
 * anything. */
TXK_INLINE void turn_rows(__m512i r[16], const uint16_t *x, size_t ld, size_t count, size_t d, struct channels c,
                          const float factor[16])
{
    for (size_t i = 0; i < 16; i++) {
        __m512 e[4];
        __m512i q[4];
        centred(e, x + (i < count ? i : count - 1) * ld, d, c);
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++)
            q[j] = _mm512_cvtps_epi32(_mm512_mul_ps(e[j], _mm512_set1_ps(factor[i])));
        r[i] = _mm512_packs_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
    }
    transpose_32x16x16(r);
}

static void pack_keys(struct attention *a, const struct tx_attention_bf16 *job)
{
    average(a->key_mean, job->k, job->ldk, a->Tk, a->Dh);
    if (PAIRED)
        choose_signs(a, job);
    const struct channels channels = {a->Dh, a->key_mean, a->sign};
    a->bad = 0;
    __m512 most = _mm512_setzero_ps();
    for (size_t t = 0; t < a->Tk; t += 16) {
        const uint16_t *k = job->k + t * job->ldk;
        __m512 scale;
        float factor[16] __attribute__((aligned(64)));
        _mm512_store_ps(factor, factors_of_rows(&scale, k, job->ldk, a->Tk - t, channels, PAIRED));
        a->bad |= _mm512_cmp_ps_mask(scale, scale, _CMP_UNORD_Q) != 0;
        const __mmask16 keys = lanes_f32x16(a->Tk - t);
        _mm512_store_ps(a->key_scale + t, scale);
        most = _mm512_mask_max_ps(most, keys, most, scale);
        __m512i sum = _mm512_setzero_si512();
        for (size_t d = 0; d < a->Dh; d += 64) {
            __m512i r[16];
            turn_rows(r, k, job->ldk, a->Tk - t, d, channels, factor);
            for (size_t i = 0; i < 16; i++) {
                const size_t step = d / 4 + 4 * (i % 4) + i / 4;
                char *to = a->keys + (t * a->steps + step * ROWS) * 4;
                if (step >= a->steps)
                    continue;
                ADD_PRODUCT(sum, _mm512_set1_epi8(1), r[i]);
                _mm256_store_si256((__m256i *)to, _mm512_castsi512_si256(r[i]));
                _mm256_store_si256((__m256i *)(to + a->steps * ROWS * 4), _mm512_extracti64x4_epi64(r[i], 1));
            }
        }
        /* Keys that are not there come out as the least word. */
        const __m512i begin = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sum, 7));
        _mm512_store_si512(a->key_begin + t, _mm512_mask_blend_epi32(keys, _mm512_set1_epi32(-(1 << 30)), begin));
    }
    /* No score passes a word. */
    const float some = _mm512_reduce_max_ps(most), largest = some == 0 ? 1 : some;
    const float word = largest * ((float)(BYTE * BYTE) / (float)WORD * (float)a->Dh);
    for (size_t t = 0; t < a->Tk; t += 16) {
        const __m512 scale =
            _mm512_mask_blend_ps(lanes_f32x16(a->Tk - t), _mm512_set1_ps(largest), _mm512_load_ps(a->key_scale + t));
        _mm512_store_ps(a->key_scale + t, _mm512_div_ps(scale, _mm512_set1_ps(word)));
    }
    a->scale *= word;
}

/* Four bytes of each of four vectors, one vector after the other as two packs leave them, become four dwords of a byte of
 * each. */
TXK_INLINE __m512i interleave_bytes(__m512i packed)
{
    return _mm512_shuffle_epi8(packed,
                               _mm512_broadcast_i32x4(_mm_set_epi8(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0)));
}

static void pack_values(struct attention *a, const struct tx_attention_bf16 *job)
{
    average(a->value_mean, job->v, job->ldv, a->Tk, a->Dh);
    for (size_t b = 0; b < a->blocks; b++)
        for (size_t d = 0; d < a->Dm; d += 16) {
            const uint16_t *v = job->v + b * KEYS * job->ldv;
            const size_t count = a->Tk - b * KEYS < KEYS ? a->Tk - b * KEYS : KEYS;
            const __m512 mean = _mm512_load_ps(a->value_mean + d);
            __m512 max = _mm512_setzero_ps(), scale;
            for (size_t t = 0; t < count; t += 2) {
                const __m512 x = _mm512_sub_ps(element(v + t * job->ldv, d, a->Dh), mean);
                const __m512 y = t + 1 < count ? _mm512_sub_ps(element(v + (t + 1) * job->ldv, d, a->Dh), mean)
                                               : _mm512_setzero_ps();
                max = max_magnitude_f32x16(max, extent(x, y));
            }
            const __m512 factor = factors_of_max(max, &scale);
            _mm512_store_ps(a->value_scale + b * a->Dw + d, scale);
            char *to = a->values + (b * KEYS * a->Dm + d * KEYS);
            for (size_t t = 0; t < count; t += 4, to += 4 * ROWS) {
                __m512i q[4];
                for (size_t i = 0; i < 4; i++)
                    q[i] = t + i < count ? _mm512_cvtps_epi32(_mm512_mul_ps(
                                               _mm512_sub_ps(element(v + (t + i) * job->ldv, d, a->Dh), mean), factor))
                                         : _mm512_setzero_si512();
                const __m512i packed =
                    interleave_bytes(_mm512_packs_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3])));
                _mm256_store_si256((__m256i *)to, _mm512_castsi512_si256(packed));
                if (d + ROWS < a->Dm)
                    _mm256_store_si256((__m256i *)(to + KEYS * ROWS), _mm512_extracti64x4_epi64(packed, 1));
            }
        }
}

static void turn_queries(struct attention *a, const struct tx_attention_bf16 *job, size_t q0, size_t rows)
{
    const struct channels channels = {a->Dh, NULL, a->sign};
    a->steep = 0;
    for (size_t g = 0; g < 2; g++) {
        const size_t first = 16 * g < rows ? 16 * g : 0; /* the second group again, where there is none */
        const uint16_t *q = job->q + (q0 + first) * job->ldq;
        __m512 scale;
        float factors[16] __attribute__((aligned(64)));
        _mm512_store_ps(factors, factors_of_rows(&scale, q, job->ldq, rows - first, channels, 0));
        for (size_t d = 0; d < a->Dh; d += 64) {
            __m512i r[16];
            turn_rows(r, q, job->ldq, rows - first, d, channels, factors);
            for (size_t i = 0; i < 16; i++)
                _mm512_store_si512(a->q + (d / 4 + 4 * (i % 4) + i / 4) * LINE + 64 * g,
                                   _mm512_xor_si512(r[i], _mm512_set1_epi8(-128)));
        }
        a->log2[g] = _mm512_mul_ps(scale, _mm512_set1_ps(a->scale));
        a->lost[g] = _mm512_cmp_ps_mask(a->log2[g], _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
        /* Below 1, with as many powers of two taken out as that takes. */
        const __m512 units = _mm512_maskz_mul_ps((__mmask16)~a->lost[g], a->log2[g], _mm512_set1_ps(UNIT));
        const __m512 power = _mm512_max_ps(_mm512_add_ps(_mm512_getexp_ps(units), _mm512_set1_ps(1.0f)), _mm512_setzero_ps());
        const __m512i factor = _mm512_cvtps_epi32(_mm512_scalef_ps(units, _mm512_sub_ps(_mm512_set1_ps(15.0f), power)));
        const __m512i whole = _mm512_min_epi32(_mm512_cvtps_epi32(power), _mm512_set1_epi32(15));
        a->factor[g] = _mm512_packs_epi32(factor, factor); /* 2^15 becomes 2^15 - 1 */
        a->power[g] = _mm512_packs_epi32(whole, whole);
        a->steep |= _mm512_test_epi32_mask(whole, whole) != 0;
    }
}

/* A dword in every lane. In assembly, since gcc 12 folds the broadcast into each of the two instructions that take it, which
 * doubles the loads, or copies all sums from one register to another and back; so do rows with ADD_PRODUCT. The sanitizers see
 * the plain versions. */
TXK_INLINE __m512i broadcast_dword(const char *x)
{
#if defined(__SANITIZE_ADDRESS__)
    int32_t value;
    memcpy(&value, x, sizeof value);
    return _mm512_set1_epi32(value);
#else
    __m512i row;
    __asm__("vpbroadcastd %1, %0" : "=v"(row) : "m"(*(const char(*)[4])x));
    return row;
#endif
}

/* acc += n steps of eight dwords by lines of 32. */
TXK_INLINE void multiply(__m512i acc[ROWS][2], const char *lines, const char *rows, size_t n)
{
    for (; n > 0; n--, lines += LINE, rows += 4 * ROWS) {
        const __m512i left = _mm512_load_si512(lines), right = _mm512_load_si512(lines + 64);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const __m512i row = broadcast_dword(rows + 4 * r);
            ADD_PRODUCT(acc[r][0], left, row);
            ADD_PRODUCT(acc[r][1], right, row);
        }
    }
}

/* Scores of eight keys from t on with 32 queries, but for the queries' factor, in words; their maxima. */
static void multiply_keys(struct attention *a, size_t t)
{
    __m512i acc[ROWS][2];
    char *scores = a->scores[t / KEYS % 2] + t % KEYS * (LINE / 2);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        acc[r][0] = acc[r][1] = broadcast_dword((const char *)(a->key_begin + t + r));
    multiply(acc, a->q, a->keys + t * a->steps * 4, a->steps);
    const float *scale = a->key_scale + t;
    __m512i *max = a->max[t / KEYS % 2], most[2] = {max[0], max[1]};
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r += 2) {
#pragma GCC unroll 2
        for (int g = 0; g < 2; g++) {
            const __m512i even = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[r][g]), _mm512_set1_ps(scale[r])));
            const __m512i odd =
                _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[r + 1][g]), _mm512_set1_ps(scale[r + 1])));
            const __m512i both = _mm512_packs_epi32(even, odd);
            _mm512_store_si512(scores + r / 2 * LINE + 64 * g, both);
            most[g] = _mm512_max_epi16(most[g], both);
        }
    }
    max[0] = most[0], max[1] = most[1];
}

/* Channels d .. d + 7 of block b's output, added to what there is. */
static void multiply_values(const struct attention *a, size_t b, size_t d)
{
    __m512i acc[ROWS][2];
    const size_t count = a->Tk - b * KEYS < KEYS ? a->Tk - b * KEYS : KEYS;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        acc[r][0] = acc[r][1] = _mm512_setzero_si512();
    multiply(acc, a->weights[b % 2], a->values + b * KEYS * a->Dm + d * KEYS, (count + 3) / 4);
    const float *scale = a->value_scale + b * a->Dw + d;
    float *out = (float *)(a->out + d * LINE);
    const __m512 share[2] = {a->share[b % 2][0], a->share[b % 2][1]};
#pragma GCC unroll 8
    for (size_t r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (size_t g = 0; g < 2; g++) {
            const __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[r][g]), _mm512_set1_ps(scale[r]));
            _mm512_store_ps(out + r * QUERIES + 16 * g,
                            _mm512_fmadd_ps(sum, share[g], _mm512_load_ps(out + r * QUERIES + 16 * g)));
        }
}

/* Words of scores -> 255 2^(t - m). */
TXK_INLINE __m512i powers(const struct attention *a, int g, const char *scores, const int steep)
{
    __m512i x = _mm512_mulhrs_epi16(_mm512_load_si512(scores), a->factor[g]);
    x = _mm512_subs_epi16(x, a->offset[g]);
    if (steep) /* from no less than what gives a byte of 0, or the shift might leave the word */
        x = _mm512_sllv_epi16(_mm512_max_epi16(x, _mm512_srav_epi16(_mm512_set1_epi16(-16 * UNIT), a->power[g])), a->power[g]);
    x = _mm512_subs_epi16(x, _mm512_set1_epi16(TOP));
    const __m512i power = _mm512_permutex2var_epi16(_mm512_load_si512(powers_of_2), x, _mm512_load_si512(powers_of_2 + 32));
    const __m512i shift = _mm512_srli_epi16(_mm512_xor_si512(x, _mm512_set1_epi16(-1)), 6);
    return _mm512_avg_epu16(_mm512_srlv_epi16(power, shift), _mm512_setzero_si512());
}

/* Probabilities of four more keys of block b, which has `count`; *t have theirs. */
TXK_INLINE void soften_some(const struct attention *a, size_t b, size_t *t, size_t count, const int steep)
{
    const char *scores = a->scores[b % 2] + *t * (LINE / 2);
    char *to = a->weights[b % 2] + *t / 4 * LINE;
    if (*t >= count)
        return;
#pragma GCC unroll 2
    for (int g = 0; g < 2; g++) {
        const __m512i low = powers(a, g, scores + 64 * g, steep), high = powers(a, g, scores + LINE + 64 * g, steep);
        __m512i p = interleave_bytes(_mm512_packus_epi16(low, high));
        if (count - *t < 4)
            p = _mm512_and_si512(p, _mm512_set1_epi32((1 << 8 * (count - *t)) - 1));
        _mm512_store_si512(to + 64 * g, p);
    }
    *t += 4;
}

/* The bytes of block b into the sums. */
static void add_sums(struct attention *a, size_t b, size_t count)
{
    const char *weights = a->weights[b % 2];
    __m512i sum[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (size_t t = 0; t < count; t += 4, weights += LINE)
        for (int g = 0; g < 2; g++)
            ADD_PRODUCT(sum[g], _mm512_load_si512(weights + 64 * g), _mm512_set1_epi8(1));
    for (int g = 0; g < 2; g++)
        a->sum[g] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[g]), a->share[b % 2][g], a->sum[g]);
}

/* What the maxima of block b say: its offset, its share, and, where a lane's maximum has left its base far below, a new
 * base. */
static int begin_block(struct attention *a, size_t b, __m512 shrink[2])
{
    int any = 0;
    for (int g = 0; g <= a->wide; g++) {
        const __m512i words = a->max[b % 2][g], most = _mm512_max_epi16(words, _mm512_shuffle_epi32(words, 0x4e));
        const __m512 max =
            _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_unpacklo_epi16(most, most), 16)), a->log2[g]);
        a->max[b % 2][g] = _mm512_set1_epi16(-WORD - 1);
        a->offset[g] = _mm512_mulhrs_epi16(most, a->factor[g]);
        shrink[g] = _mm512_set1_ps(1.0f);
        if (b == 0)
            a->base[g] = max;
        const __mmask16 higher = _mm512_cmp_ps_mask(max, _mm512_add_ps(a->base[g], _mm512_set1_ps(16.0f)), _CMP_GT_OQ);
        if (higher) {
            shrink[g] = _mm512_mask_blend_ps(higher, shrink[g], exp2_f32x16(_mm512_sub_ps(a->base[g], max)));
            a->base[g] = _mm512_mask_blend_ps(higher, a->base[g], max);
            a->sum[g] = _mm512_mul_ps(a->sum[g], shrink[g]);
            any = 1;
        }
        a->share[b % 2][g] = exp2_f32x16(_mm512_sub_ps(max, a->base[g]));
    }
    return any;
}

static void rescale(const struct attention *a, const __m512 shrink[2])
{
    for (size_t d = 0; d < a->Dm; d++)
        for (int g = 0; g <= a->wide; g++) {
            float *out = (float *)(a->out + d * LINE + 64 * g);
            _mm512_store_ps(out, _mm512_mul_ps(_mm512_load_ps(out), shrink[g]));
        }
}

/* Rounds to bfloat16, in the upper half of the dword; NaN must be the processor's own. */
TXK_INLINE __m512i rounded(__m512 x)
{
    const __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
}

static void store_rows(const struct attention *a, const struct tx_attention_bf16 *job, size_t q0, size_t rows)
{
    for (int g = 0; g <= a->wide; g++) {
        const __mmask16 lost = a->bad ? (__mmask16)0xffff : a->lost[g];
        const __m512 share = _mm512_mask_blend_ps(lost, _mm512_div_ps(_mm512_set1_ps(1.0f), a->sum[g]), _mm512_set1_ps(NAN));
        const size_t first = 16 * (size_t)g, count = rows - first < 16 ? rows - first : 16;
        for (size_t d = 0; d < a->Dh; d += 32) {
            const __mmask32 lanes = a->Dh - d >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << (a->Dh - d)) - 1;
            __m512i r[16];
            for (size_t i = 0; i < 16; i++) {
                __m512i pair[2];
#pragma GCC unroll 2
                for (size_t j = 0; j < 2; j++) {
                    const __m512 sum = _mm512_load_ps(a->out + (d + 2 * i + j) * LINE + 64 * g);
                    pair[j] = rounded(_mm512_fmadd_ps(sum, share, _mm512_set1_ps(a->value_mean[d + 2 * i + j])));
                }
                r[i] = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(pair[0], 16), pair[1]);
            }
            transpose_32x16x16(r);
            for (size_t i = 0; i < count; i++)
                _mm512_mask_storeu_epi16(job->out + (q0 + first + i) * job->ldo + d, lanes, r[i]);
        }
    }
}

TXK_INLINE void attend(struct attention *a, const struct tx_attention_bf16 *job, size_t q0, size_t rows, const int steep)
{
    for (int g = 0; g < 2; g++) {
        a->max[0][g] = a->max[1][g] = _mm512_set1_epi16(-WORD - 1);
        a->sum[g] = _mm512_setzero_ps();
    }
    for (size_t d = 0; d < up(a->Dh, 32) * LINE; d += 64)
        _mm512_store_si512(a->out + d, _mm512_setzero_si512());
    for (size_t t = 0; t < KEYS && t < a->Tk; t += ROWS)
        multiply_keys(a, t);
    for (size_t b = 0; b < a->blocks; b++) {
        const size_t t = b * KEYS, next = t + KEYS, left = next < a->Tk ? a->Tk - next : 0;
        const size_t ahead = (left < KEYS ? left + ROWS - 1 : KEYS) / ROWS, behind = b > 0 ? a->Dm / ROWS : 0;
        const size_t count = left ? KEYS : a->Tk - t;
        __m512 shrink[2];
        const int rescaled = begin_block(a, b, shrink);
        size_t softened = 0;
        for (size_t i = 0; i < ahead || i < behind; i++) {
            if (i < ahead) {
                multiply_keys(a, next + i * ROWS);
                soften_some(a, b, &softened, count, steep);
            }
            if (i < behind) {
                multiply_values(a, b - 1, i * ROWS);
                soften_some(a, b, &softened, count, steep);
            }
        }
        while (softened < count)
            soften_some(a, b, &softened, count, steep);
        add_sums(a, b, count);
        if (rescaled)
            rescale(a, shrink);
    }
    for (size_t d = 0; d < a->Dm; d += ROWS)
        multiply_values(a, a->blocks - 1, d);
    store_rows(a, job, q0, rows);
}

static void attend_level(struct attention *a, const struct tx_attention_bf16 *job, size_t q0, size_t rows)
{
    attend(a, job, q0, rows, 0);
}
static void attend_steep(struct attention *a, const struct tx_attention_bf16 *job, size_t q0, size_t rows)
{
    attend(a, job, q0, rows, 1);
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
        a.wide = rows > 16;
        turn_queries(&a, job, q0, rows);
        fetch_rows(job->out + q0 * job->ldo, job->ldo, rows, a.Dh);
        fetch_rows(job->q + (q0 + rows) * job->ldq, job->ldq, job->Tq - q0 - rows < QUERIES ? job->Tq - q0 - rows : QUERIES,
                   a.Dh);
        if (a.steep)
            attend_steep(&a, job, q0, rows);
        else
            attend_level(&a, job, q0, rows);
    }
}

#endif
