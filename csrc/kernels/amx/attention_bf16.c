/* attention_bf16 on tiles: out[Tq,Dh] = softmax(scale (q k^T + bias)) v of one head.
 *
 * Passes, once a call:
 *   1. copy_keys, turn_values   k and v^T, tile by tile
 * for every 32 queries:
 *   2. turn_queries     q^T; whether |q| |k| bounds each query's scores well, or it is `steep`
 * for every 64 keys:
 *   3. score            K q^T [64 keys, 32 queries]
 *   4. soften_block     2^(t - base) in bfloat16, pairs of keys side by side; rebase before it where a query is steep
 *   5. accumulate       v^T p, added to what there is [Dh, 32 queries]
 * and at the end of the 32 queries:
 *   6. store_rows       out / sum, turned back, as bfloat16
 *
 * All is transposed, so that a vector holds 16 queries, whose maxima and sums need no reduction across lanes. What tiles read
 * or write lies in scratch tile by tile, 1 KB each; Dp and Dm are Dh up to a multiple of 32 and 16:
 *
 *                                 q^T    [Dp/32][2]     two groups of 16 queries
 *   K    [Tk/16][Dp/32]    x   =  scores [keys/16][2]
 *                                 p      [keys/32][2]   pairs of keys
 *   v^T  [Tk/32][Dm/16]    x   =  out    [Dm/16][2]
 *
 * A probability is made with integers: adding 1.5 2^16 to t - base + 127 leaves its exponent and seven bits of fraction in the
 * low half of the float, that is 2^x with 1 + f for 2^f, and a table takes f + 1 - 2^f off. Error: 0.7% at most, 0.23% RMS, of
 * which the rounding to bfloat16 is 0.4% and 0.16%. The sum of a row is of the rounded numbers.
 *
 * Where |q| |k| bounds a query's scores well, the base follows from the bound and nothing needs to know the maximum. A steep
 * query's is the running maximum, which follows the true one only when that has risen by more than 8. Which of the two is
 * decided query by query, so that a result depends on its q, k and v alone; 32 queries with a steep one among them take the
 * slower way together. Rows whose scores hold NaN or +inf come out as NaN. A running maximum is taken off before the factor:
 * the difference of near scores is exact however large they are, where the sum of their products with an offset would not be.
 *
 * A tile of scores begins at zero, or at its bias: rows of keys and columns of queries whose distance alone counts are a tile
 * whose rows lie one number before each other. Queries with a bias are steep, since the bound knows nothing of it. */
#include <math.h>

#include "tiles.h"
#include "row.h"
#include "../avx512/simd_narrow.h"

enum {
    TILE = 1024,            /* bytes */
    PIECE = 16,             /* keys */
    BLOCK = 64,             /* keys at a time: their scores and probabilities stay in L1 */
    PIECES = BLOCK / PIECE,
    QUERIES = 32,
    TOP = 127 + 30,         /* exponent field of the largest probability that a bound allows */
    STEEP = 50,             /* 2^(2 STEEP) between the largest and the least keeps products with v clear of underflow */
};

struct attention {
    size_t Tk, Dh;
    size_t steps, outputs, pieces;  /* of 32 in Dh, of 16 in Dh, of 16 keys (even) */
    char *keys, *values, *q, *scores, *pairs, *out;
    __m512 factor;          /* scale log2(e) */
    float longest;          /* |k| at most */
    const float *bias;      /* of the first query with key 0, or NULL */
    __m512 base[2];         /* steep lanes: the running maximum of scores, others: 0 */
    __m512 offset[2];       /* what turns a score less base, times factor, into its place in a float */
    __m512 sum[2];
    __mmask16 steep[2], bad[2];
};

static size_t carve(struct attention *a, char *scratch)
{
    char *p = scratch;
    a->steps = (a->Dh + 31) / 32, a->outputs = (a->Dh + 15) / 16, a->pieces = (a->Tk + 31) / 32 * 2;
    a->keys = p, p += a->pieces * a->steps * TILE;
    a->values = p, p += a->pieces / 2 * a->outputs * TILE;
    a->q = p, p += a->steps * 2 * TILE;
    a->scores = p, p += PIECES * 2 * TILE;
    a->pairs = p, p += PIECES / 2 * 2 * TILE;
    a->out = p, p += a->outputs * 2 * TILE;
    return (size_t)(p - scratch);
}

/* 32 elements from d on of a row, zeros behind Dh; NULL: a row of zeros. */
TXK_INLINE __m512i elements(const uint16_t *row, size_t d, size_t Dh)
{
    if (!row || d >= Dh)
        return _mm512_setzero_si512();
    return _mm512_maskz_loadu_epi16(Dh - d >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << (Dh - d)) - 1, row + d);
}

/* Rows lie pages apart, where no hardware looks ahead: those from `first` on, on their way while others are turned. */
TXK_INLINE void fetch_rows(const uint16_t *rows, size_t ld, size_t first, size_t count, size_t end, size_t Dh)
{
    for (size_t r = first; r < first + count && r < end; r++)
        for (size_t d = 0; d < Dh; d += 32)
            _mm_prefetch((const char *)(rows + r * ld + d), _MM_HINT_T0);
}

TXK_INLINE __m512 dot(__m512 sum, __m512i x, __m512i y)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)y);
}

/* K by tiles, and the largest |k|. */
static void copy_keys(struct attention *a, const struct tx_attention_bf16 *job)
{
    __m512 most = _mm512_setzero_ps();
    for (size_t t = 0; t < a->pieces * PIECE; t += PIECE) {
        __m512i squares[16];
        fetch_rows(job->k, job->ldk, t + PIECE, PIECE, a->Tk, a->Dh);
        for (size_t i = 0; i < PIECE; i++) {
            __m512 sum = _mm512_setzero_ps();
            for (size_t s = 0; s < a->steps; s++) {
                const __m512i k = elements(t + i < a->Tk ? job->k + (t + i) * job->ldk : NULL, 32 * s, a->Dh);
                _mm512_store_si512(a->keys + (t / PIECE * a->steps + s) * TILE + 64 * i, k);
                sum = dot(sum, k, k);
            }
            squares[i] = _mm512_castps_si512(sum);
        }
        transpose_32x16x16(squares);
        __m512 sum = _mm512_castsi512_ps(squares[0]);
        for (size_t i = 1; i < 16; i++)
            sum = _mm512_add_ps(sum, _mm512_castsi512_ps(squares[i]));
        most = max_magnitude_f32x16(most, sum); /* NaN counts as Inf */
    }
    const int whole = _mm512_cmp_ps_mask(most, _mm512_set1_ps(3.4028235e38f), _CMP_NLE_UQ) == 0;
    a->longest = whole ? _mm512_reduce_max_ps(_mm512_sqrt_ps(most)) : INFINITY;
}

/* v^T: the dwords (d, keys 2 i and 2 i + 1) of 16 pairs of rows, turned. */
static void turn_values(const struct attention *a, const struct tx_attention_bf16 *job)
{
    for (size_t t = 0; t < a->pieces * PIECE; t += 32) {
        fetch_rows(job->v, job->ldv, t + 32, 32, a->Tk, a->Dh);
        for (size_t o = 0; o < a->outputs; o++) {
            const __mmask16 lanes = lanes_f32x16(a->Dh - 16 * o);
            __m512i r[16];
            for (size_t i = 0; i < 16; i++) {
                const uint16_t *v = job->v + (t + 2 * i) * job->ldv + 16 * o;
                const __m256i even = t + 2 * i < a->Tk ? _mm256_maskz_loadu_epi16(lanes, v) : _mm256_setzero_si256();
                const __m256i odd =
                    t + 2 * i + 1 < a->Tk ? _mm256_maskz_loadu_epi16(lanes, v + job->ldv) : _mm256_setzero_si256();
                r[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
            }
            transpose_32x16x16(r);
            for (size_t i = 0; i < 16; i++)
                _mm512_store_si512(a->values + (t / 32 * a->outputs + o) * TILE + 64 * i, r[i]);
        }
    }
}

/* q^T in pairs, and what |q| says about the scores. Lanes without a query are zeros. */
static void turn_queries(struct attention *a, const struct tx_attention_bf16 *job, size_t q0, size_t rows)
{
    for (size_t g = 0; g < 2; g++) {
        __m512 squares = _mm512_setzero_ps();
        for (size_t s = 0; s < a->steps; s++) {
            __m512i r[16];
            for (size_t i = 0; i < 16; i++)
                r[i] = elements(16 * g + i < rows ? job->q + (q0 + 16 * g + i) * job->ldq : NULL, 32 * s, a->Dh);
            transpose_32x16x16(r);
            for (size_t i = 0; i < 16; i++) {
                _mm512_store_si512(a->q + (2 * s + g) * TILE + 64 * i, r[i]);
                squares = dot(squares, r[i], r[i]);
            }
        }
        /* A hundredth and one more than enough for the rounding of squares and scores. */
        const __m512 size =
            _mm512_mul_ps(_mm512_sqrt_ps(squares), _mm512_mul_ps(a->factor, _mm512_set1_ps(1.01f * a->longest)));
        const __m512 bound = _mm512_add_ps(size, _mm512_set1_ps(1.0f));
        a->steep[g] = a->bias ? (__mmask16)0xffff : _mm512_cmp_ps_mask(bound, _mm512_set1_ps(STEEP), _CMP_NLE_UQ);
        const __m512 place = _mm512_set1_ps(0x1.8p16f + 127.0f);
        a->base[g] = _mm512_setzero_ps();
        a->offset[g] = _mm512_mask_blend_ps(
            a->steep[g], _mm512_sub_ps(place, _mm512_sub_ps(bound, _mm512_set1_ps(TOP - 127))), place);
        a->sum[g] = _mm512_setzero_ps();
        a->bad[g] = 0;
    }
}

/* Where the sums of a tile of scores begin (`tile` is a literal). */
#define BEGIN(tile, piece)                                                                      \
    do {                                                                                        \
        if (a->bias)                                                                            \
            amx_load(tile, a->bias + 16 * (tile) - (piece) * PIECE, -(ptrdiff_t)sizeof(float)); \
        else                                                                                    \
            amx_zero(tile);                                                                     \
    } while (0)

/* Scores of the pieces of keys from `first` to `end`. Four stores in a row would hold up the loads behind them: a tile of
 * scores is stored just before it is begun anew. */
static void score(const struct attention *a, size_t first, size_t end)
{
    const char *k = a->keys + first * a->steps * TILE, *q = a->q;
    char *scores = a->scores;
    if (a->steps == 2) {
        amx_load(4, q, 64);
        amx_load(5, q + TILE, 64);
        amx_load(6, q + 2 * TILE, 64);
        amx_load(7, q + 3 * TILE, 64);
    }
    for (size_t piece = first; piece < end; piece++, scores += 2 * TILE) {
        amx_load(2, k, 64);
        if (piece > first)
            amx_store(0, scores - 2 * TILE, 64);
        BEGIN(0, piece);
        if (a->steps == 2) {
            amx_dot_bf16(0, 2, 4);
            if (piece > first)
                amx_store(1, scores - TILE, 64);
            BEGIN(1, piece);
            amx_dot_bf16(1, 2, 5);
            amx_load(3, k + TILE, 64);
            amx_dot_bf16(0, 3, 6);
            amx_dot_bf16(1, 3, 7);
            k += 2 * TILE;
            continue;
        }
        amx_load(3, q, 64);
        amx_dot_bf16(0, 2, 3);
        if (piece > first)
            amx_store(1, scores - TILE, 64);
        BEGIN(1, piece);
        amx_load(4, q + TILE, 64);
        amx_dot_bf16(1, 2, 4);
        k += TILE;
        for (size_t s = 1; s < a->steps; s++, k += TILE) {
            amx_load(2, k, 64);
            amx_load(3, q + 2 * s * TILE, 64);
            amx_dot_bf16(0, 2, 3);
            amx_load(4, q + (2 * s + 1) * TILE, 64);
            amx_dot_bf16(1, 2, 4);
        }
    }
    amx_store(0, scores - 2 * TILE, 64);
    amx_store(1, scores - TILE, 64);
}

/* The output of those keys, on tiles 0 to 3. */
static void accumulate(const struct attention *a, size_t first, size_t end)
{
    const size_t stride = a->outputs * TILE;
    for (size_t o = 0; o < a->outputs; o += 2) {
        const int two = o + 1 < a->outputs;
        const char *v = a->values + first / 2 * stride + o * TILE, *p = a->pairs;
        char *out = a->out + o * 2 * TILE;
        amx_load(0, out, 64);
        amx_load(1, out + TILE, 64);
        if (two) {
            amx_load(2, out + 2 * TILE, 64);
            amx_load(3, out + 3 * TILE, 64);
        }
        for (size_t piece = first; piece < end; piece += 2, v += stride, p += 2 * TILE) {
            amx_load(4, v, 64);
            amx_load(6, p, 64);
            amx_dot_bf16(0, 4, 6);
            amx_load(7, p + TILE, 64);
            amx_dot_bf16(1, 4, 7);
            if (two) {
                amx_load(5, v + TILE, 64);
                amx_dot_bf16(2, 5, 6);
                amx_dot_bf16(3, 5, 7);
            }
        }
        amx_store(0, out, 64);
        amx_store(1, out + TILE, 64);
        if (two) {
            amx_store(2, out + 2 * TILE, 64);
            amx_store(3, out + 3 * TILE, 64);
        }
    }
}

/* f + 1 - 2^f in units of 2^-7, for f = (2 i + 0.5) 2^-7. */
static const uint8_t excess[64] __attribute__((aligned(64))) = {
    0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 5, 6, 6, 7, 7, 8, 8, 8, 9, 9, 9, 9, 10, 10, 10, 10, 10, 11, 11, 11, 11, 11,
    11, 11, 11, 11, 11, 11, 11, 11, 11, 10, 10, 10, 10, 10, 9, 9, 9, 8, 8, 8, 7, 7, 6, 6, 5, 5, 4, 3, 3, 2, 1, 1,
};

/* Scores of a piece become probabilities, at `pairs`; `count` of the keys exist. `steep`: there are bases, and scores below the
 * range count as nothing. */
TXK_INLINE void soften(struct attention *a, const char *scores, char *pairs, size_t count, const int steep, const int whole)
{
    const __m512i table = _mm512_load_si512(excess), ones = _mm512_set1_epi16(0x3f80);
    /* Words 0 of a dword go to its words 1. */
    const __m512i up = _mm512_set4_epi32(0x0d0c0000, 0x09080000, 0x05040000, 0x01000000);
    const __m512 magic = _mm512_set1_ps(0x1.8p16f), factor = a->factor;
#pragma GCC unroll 2
    for (int g = 0; g < 2; g++, scores += TILE, pairs += TILE) {
        const __m512 offset = a->offset[g], base = a->base[g];
        __m512 sum[2] = {a->sum[g], _mm512_setzero_ps()};
#pragma GCC unroll 8
        for (size_t r = 0; r < PIECE / 2; r++) {
            __m512 even = _mm512_load_ps(scores + 128 * r), odd = _mm512_load_ps(scores + 128 * r + 64);
            if (steep) {
                even = _mm512_sub_ps(even, base);
                odd = _mm512_sub_ps(odd, base);
            }
            even = _mm512_fmadd_ps(even, factor, offset);
            odd = _mm512_fmadd_ps(odd, factor, offset);
            if (steep) {
                even = _mm512_max_ps(even, magic);
                odd = _mm512_max_ps(odd, magic);
            }
            const __m512i x =
                _mm512_mask_shuffle_epi8(_mm512_castps_si512(even), 0xcccccccccccccccc, _mm512_castps_si512(odd), up);
            __m512i p = _mm512_sub_epi16(x, _mm512_maskz_permutexvar_epi8(0x5555555555555555, _mm512_srli_epi16(x, 1), table));
            if (!whole && 2 * r + 1 >= count)
                p = 2 * r < count ? _mm512_and_si512(p, _mm512_set1_epi32(0xffff)) : _mm512_setzero_si512();
            _mm512_store_si512(pairs + 64 * r, p);
            sum[r % 2] = dot(sum[r % 2], p, ones);
        }
        a->sum[g] = _mm512_add_ps(sum[0], sum[1]);
    }
}

static void soften_block(struct attention *a, size_t first, size_t end, const int steep)
{
    const char *scores = a->scores;
    char *pairs = a->pairs;
    for (size_t piece = first; piece < end; piece++, scores += 2 * TILE, pairs += piece % 2 ? TILE / 2 : 2 * TILE - TILE / 2) {
        if (piece * PIECE + PIECE <= a->Tk)
            soften(a, scores, pairs, PIECE, steep, 1);
        else
            soften(a, scores, pairs, piece * PIECE < a->Tk ? a->Tk - piece * PIECE : 0, steep, 0);
    }
}

/* New bases of steep lanes from the scores of a block of `count` keys; what came before shrinks with them. */
static void rebase(struct attention *a, size_t count, int first)
{
    for (int g = 0; g < 2; g++) {
        __m512 max = _mm512_set1_ps(-INFINITY);
        for (size_t t = 0; t < count; t++) {
            const __m512 s = _mm512_load_ps(a->scores + (t / PIECE * 2 + (size_t)g) * TILE + t % PIECE * 64);
            a->bad[g] |= _mm512_cmp_ps_mask(s, _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
            max = _mm512_max_ps(max, s);
        }
        if (first) {
            a->base[g] = _mm512_mask_blend_ps(a->steep[g], a->base[g], max);
            continue;
        }
        const __m512 fall = _mm512_mul_ps(_mm512_sub_ps(a->base[g], max), a->factor);
        const __mmask16 higher = _mm512_mask_cmp_ps_mask(a->steep[g], _mm512_set1_ps(-8.0f), fall, _CMP_GT_OQ);
        if (!higher)
            continue;
        const __m512 shrink = _mm512_mask_blend_ps(higher, _mm512_set1_ps(1.0f), exp2_f32x16(fall));
        a->base[g] = _mm512_mask_blend_ps(higher, a->base[g], max);
        a->sum[g] = _mm512_mul_ps(a->sum[g], shrink);
        for (size_t d = 0; d < a->outputs * 16; d++) {
            float *o = (float *)(a->out + (d / 16 * 2 + (size_t)g) * TILE + d % 16 * 64);
            _mm512_store_ps(o, _mm512_mul_ps(_mm512_load_ps(o), shrink));
        }
    }
}

static void attend(struct attention *a)
{
    const int steep = a->steep[0] | a->steep[1];
    for (size_t first = 0; first < a->pieces; first += PIECES) {
        const size_t end = a->pieces - first < PIECES ? a->pieces : first + PIECES, keys = a->Tk - first * PIECE;
        score(a, first, end);
        if (steep) {
            rebase(a, keys < BLOCK ? keys : BLOCK, first == 0);
            soften_block(a, first, end, 1);
        } else {
            soften_block(a, first, end, 0);
        }
        accumulate(a, first, end);
    }
}

static void store_rows(const struct attention *a, const struct tx_attention_bf16 *job, size_t q0, size_t rows)
{
    for (size_t g = 0; 16 * g < rows; g++) {
        const __m512 share =
            _mm512_mask_blend_ps(a->bad[g], _mm512_div_ps(_mm512_set1_ps(1.0f), a->sum[g]), _mm512_set1_ps(NAN));
        const size_t count = rows - 16 * g < 16 ? rows - 16 * g : 16;
        for (size_t o = 0; o < a->outputs; o++) {
            __m512i r[16];
            for (size_t i = 0; i < 16; i++)
                r[i] = _mm512_castps_si512(_mm512_mul_ps(_mm512_load_ps(a->out + (2 * o + g) * TILE + 64 * i), share));
            transpose_32x16x16(r);
            for (size_t i = 0; i < count; i++)
                _mm256_mask_storeu_epi16(job->out + (q0 + 16 * g + i) * job->ldo + 16 * o, lanes_f32x16(a->Dh - 16 * o),
                                         bf16_of_f32x16(_mm512_castsi512_ps(r[i])));
        }
    }
}

size_t txk_attention_bf16_scratch_amx(size_t Tk, size_t Dh)
{
    struct attention a = {.Tk = Tk, .Dh = Dh};
    return carve(&a, NULL);
}

void txk_attention_bf16_amx(const struct tx_attention_bf16 *job)
{
    static const struct amx_shape whole = AMX_WHOLE;
    struct attention a = {.Tk = job->Tk, .Dh = job->Dh, .factor = _mm512_set1_ps(job->scale * 1.44269504088896341f)};
    carve(&a, job->scratch);
    copy_keys(&a, job);
    turn_values(&a, job);
    amx_config(&whole);
    for (size_t q0 = 0; q0 < job->Tq; q0 += QUERIES) {
        const size_t rows = job->Tq - q0 < QUERIES ? job->Tq - q0 : QUERIES;
        a.bias = job->bias ? job->bias + q0 : NULL;
        turn_queries(&a, job, q0, rows);
        fetch_rows(job->q, job->ldq, q0 + QUERIES, QUERIES, job->Tq, a.Dh);
        for (size_t i = 0; i < a.outputs * 2 * TILE; i += 64)
            _mm512_store_si512(a.out + i, _mm512_setzero_si512());
        attend(&a);
        store_rows(&a, job, q0, rows);
    }
    amx_done();
}
