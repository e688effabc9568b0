/* attention_bf16 with vdpbf16ps: out[Tq,Dh] = softmax(scale q k^T) v of one head. A vector of 16 or 32 queries meets one broadcast pair; eight
 * rows at a time: 16 sums, one line of the other operand, one broadcast.
 *
 * Everything is computed transposed: scores [keys, queries], output [Dh, queries]. A vector then holds 16 queries, whose maxima and sums
 * need no reduction across lanes, K is an operand as it lies, and q and v are turned around once a call.
 *
 * Copies in scratch, zero padded: K [Tk,Dp]; v^T [Tk/32][Dm][32]; and for 32 queries at a time q^T in pairs, [Dp/2][32][2]. Then blocks of 64 keys
 * (borders at multiples of 64 from key 0) go by in a pipeline of three: while the scores of one block become probabilities, the scores of
 * the next and the output of the one before are multiplied.
 *
 * Probabilities are 2^(t - base), base the running maximum of a query; it follows the true maximum only when that has risen by more than 8, so
 * that the output is hardly ever rescaled and no probability passes 2^8. 2^x by a cubic: 9e-5 relative, a fortieth of bfloat16's rounding.
 * A lane's arithmetic depends on its q, Tk and Dh alone. Rows whose scores hold NaN or +inf come out as NaN. */
#include <math.h>

#include "kernels_low_avx512.h"
#include "simd_low_avx512.h"

enum { KEYS = 64, QUERIES = 32, LINE = QUERIES * 4 /* bytes of a row of scores, or of pairs */ };

struct attention {
    size_t Tk, Dh, Dp, Dm;  /* Dp: Dh up to a multiple of 32, as an inner size; Dm: of 16, as rows of the output */
    size_t steps, outputs;  /* Dp / 32, Dm / 16 */
    char *keys, *values, *q, *scores[2], *pairs[2], *out;
    __m512 log2_scale;
    int wide;               /* more than 16 queries */
    __m512 base[2], sum[2][2];
};

/* 2^f for 0 <= f < 1 with the smallest largest relative error, 2^0 = 1 held (as fit_avx512.py does it). */
static const float fit_pow2[4] = {0x1.000000p+0f, 0x1.63e658p-1f, 0x1.d23788p-3f, 0x1.3baaa8p-4f};

static size_t up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static size_t carve(struct attention *a, char *scratch)
{
    char *p = scratch;
    a->Dp = up(a->Dh, 32), a->Dm = up(a->Dh, 16);
    a->steps = a->Dp / 32, a->outputs = a->Dm / 16;
    a->keys = p, p += up(a->Tk, KEYS) * a->Dp * 2;
    a->values = p, p += up(a->Tk, KEYS) * a->Dm * 2;
    a->q = p, p += a->Dp / 2 * LINE;
    for (int i = 0; i < 2; i++) {
        a->scores[i] = p, p += KEYS * LINE;
        a->pairs[i] = p, p += KEYS / 2 * LINE;
    }
    a->out = p, p += a->Dm * LINE;
    return (size_t)(p - scratch);
}

/* 32 elements from d on of a row, zeros behind Dh; NULL: a row of zeros. */
TXK_INLINE __m512i elements(const uint16_t *row, size_t d, size_t Dh)
{
    if (!row || d >= Dh)
        return _mm512_setzero_si512();
    return _mm512_maskz_loadu_epi16(Dh - d >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << (Dh - d)) - 1, row + d);
}

static void copy_keys(const struct attention *a, const struct tx_attention_bf16 *job)
{
    for (size_t t = 0; t < up(a->Tk, KEYS); t++)
        for (size_t d = 0; d < a->Dp; d += 32)
            _mm512_store_si512(a->keys + (t * a->Dp + d) * 2, elements(t < a->Tk ? job->k + t * job->ldk : NULL, d, a->Dh));
}

/* v^T: the dwords (d, keys 2 i and 2 i + 1) of 16 pairs of rows, turned. */
static void turn_values(const struct attention *a, const struct tx_attention_bf16 *job)
{
    for (size_t t = 0; t < up(a->Tk, KEYS); t += 32)
        for (size_t d = 0; d < a->Dm; d += 16) {
            const __mmask16 lanes = lanes_f32x16(a->Dh - d);
            __m512i r[16];
            for (size_t i = 0; i < 16; i++) {
                const uint16_t *v = job->v + (t + 2 * i) * job->ldv + d;
                const __m256i even = t + 2 * i < a->Tk ? _mm256_maskz_loadu_epi16(lanes, v) : _mm256_setzero_si256();
                const __m256i odd = t + 2 * i + 1 < a->Tk ? _mm256_maskz_loadu_epi16(lanes, v + job->ldv) : _mm256_setzero_si256();
                r[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
            }
            transpose_32x16x16(r);
            for (size_t i = 0; i < 16; i++)
                _mm512_store_si512(a->values + (t * a->Dm + (d + i) * 32) * 2, r[i]);
        }
}

static void turn_queries(const struct attention *a, const struct tx_attention_bf16 *job, size_t q0, size_t rows)
{
    for (size_t half = 0; half < 2; half++)
        for (size_t d = 0; d < a->Dp; d += 32) {
            __m512i r[16];
            for (size_t i = 0; i < 16; i++)
                r[i] = elements(16 * half + i < rows ? job->q + (q0 + 16 * half + i) * job->ldq : NULL, d, a->Dh);
            transpose_32x16x16(r);
            for (size_t i = 0; i < 16; i++)
                _mm512_store_si512(a->q + (d / 2 + i) * LINE + 64 * half, r[i]);
        }
}

/* 2^x for x up to 127 or so; 0 for -inf; NaN stays. vreduceps leaves x - floor(x), and vscalefps takes floor(x) itself. */
TXK_INLINE __m512 power_of_2(__m512 x)
{
    const __m512 f = _mm512_reduce_ps(x, 1);
    __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(fit_pow2[3]), _mm512_set1_ps(fit_pow2[2]));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(fit_pow2[1]));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(fit_pow2[0]));
    return _mm512_scalef_ps(p, x);
}

/* New bases from the scores of a block; the factors by which everything before shrinks. Returns whether any is not 1. */
static int rebase(struct attention *a, const char *scores, size_t count, int first, __m512 shrink[2])
{
    int any = 0;
    for (int g = 0; g <= a->wide; g++) {
        __m512 m[4];
        for (int j = 0; j < 4; j++)
            m[j] = _mm512_set1_ps(-INFINITY);
        size_t t = 0;
        for (; t + 4 <= count; t += 4)
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++)
                m[j] = _mm512_max_ps(m[j], _mm512_load_ps(scores + (t + j) * LINE + 64 * g));
        for (; t < count; t++)
            m[0] = _mm512_max_ps(m[0], _mm512_load_ps(scores + t * LINE + 64 * g));
        const __m512 max = _mm512_mul_ps(_mm512_max_ps(_mm512_max_ps(m[0], m[1]), _mm512_max_ps(m[2], m[3])), a->log2_scale);
        if (first) {
            a->base[g] = max;
            continue;
        }
        const __mmask16 higher = _mm512_cmp_ps_mask(max, _mm512_add_ps(a->base[g], _mm512_set1_ps(8.0f)), _CMP_GT_OQ);
        shrink[g] = _mm512_set1_ps(1.0f);
        if (higher) {
            shrink[g] = _mm512_mask_blend_ps(higher, shrink[g], power_of_2(_mm512_sub_ps(a->base[g], max)));
            a->base[g] = _mm512_mask_blend_ps(higher, a->base[g], max);
            for (int j = 0; j < 2; j++)
                a->sum[g][j] = _mm512_mul_ps(a->sum[g][j], shrink[g]);
            any = 1;
        }
    }
    return any;
}

static void rescale(struct attention *a, const __m512 shrink[2])
{
    for (size_t d = 0; d < a->Dm; d++)
        for (int g = 0; g <= a->wide; g++) {
            float *o = (float *)(a->out + d * LINE + 64 * g);
            _mm512_store_ps(o, _mm512_mul_ps(_mm512_load_ps(o), shrink[g]));
        }
}

/* Scores of 16 keys -> probabilities in pairs of keys; `count` of the keys exist. */
TXK_INLINE void soften(struct attention *a, const char *scores, char *pairs, size_t count)
{
    /* The two halves of a rounded vector (16 even keys, 16 odd) become pairs. */
    const __m512i weave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
                                           18, 2, 17, 1, 16, 0);
    for (int g = 0; g <= a->wide; g++) {
        const __m512 base = a->base[g], factor = a->log2_scale;
        __m512 even_sum = a->sum[g][0], odd_sum = a->sum[g][1];
        for (size_t t = 0; t < 16; t += 2) {
            const float *s = (const float *)(scores + t * LINE + 64 * g);
            __m512 even = power_of_2(_mm512_fmsub_ps(_mm512_load_ps(s), factor, base));
            __m512 odd = power_of_2(_mm512_fmsub_ps(_mm512_load_ps(s + QUERIES), factor, base));
            if (t + 2 > count) {
                even = t < count ? even : _mm512_setzero_ps();
                odd = _mm512_setzero_ps();
            }
            even_sum = _mm512_add_ps(even_sum, even);
            odd_sum = _mm512_add_ps(odd_sum, odd);
            const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
            _mm512_store_si512(pairs + t / 2 * LINE + 64 * g, _mm512_permutexvar_epi16(weave, both));
        }
        a->sum[g][0] = even_sum;
        a->sum[g][1] = odd_sum;
    }
}

static void store_rows(const struct attention *a, const struct tx_attention_bf16 *job, size_t q0, size_t rows)
{
    for (int g = 0; g <= a->wide; g++) {
        const __m512 share = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_add_ps(a->sum[g][0], a->sum[g][1]));
        const size_t first = 16 * (size_t)g, count = rows - first < 16 ? rows - first : 16;
        for (size_t d = 0; d < a->Dm; d += 16) {
            __m512i r[16];
            for (size_t i = 0; i < 16; i++)
                r[i] = _mm512_castps_si512(_mm512_mul_ps(_mm512_load_ps(a->out + (d + i) * LINE + 64 * g), share));
            transpose_32x16x16(r);
            for (size_t i = 0; i < count; i++)
                _mm256_mask_storeu_epi16(job->out + (q0 + first + i) * job->ldo + d, lanes_f32x16(a->Dh - d),
                                         bf16_of_f32x16(_mm512_castsi512_ps(r[i])));
        }
    }
}

enum { ROWS = 8 };

/* sums[ROWS, 32] += (rows of pairs, `stride` bytes apart) x (lines of 32 pairs), n pairs long. */
TXK_INLINE void product(char *sums, const char *rows, size_t stride, const char *lines, size_t n, const int more)
{
    __m512 acc[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        for (int g = 0; g < 2; g++)
            acc[r][g] = more ? _mm512_load_ps(sums + r * LINE + 64 * g) : _mm512_setzero_ps();
    for (size_t i = 0; i < n; i++, lines += LINE) {
        const __m512bh left = (__m512bh)_mm512_load_si512(lines), right = (__m512bh)_mm512_load_si512(lines + 64);
#pragma GCC unroll 8
        for (size_t r = 0; r < ROWS; r++) {
            int32_t pair;
            memcpy(&pair, rows + r * stride + 4 * i, 4);
            const __m512bh row = (__m512bh)_mm512_set1_epi32(pair);
            acc[r][0] = _mm512_dpbf16_ps(acc[r][0], row, left);
            acc[r][1] = _mm512_dpbf16_ps(acc[r][1], row, right);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        for (int g = 0; g < 2; g++)
            _mm512_store_ps(sums + r * LINE + 64 * g, acc[r][g]);
}

/* scores[16 i .. 16 i + 15, :] of the block of keys from t on. */
static void multiply_scores(const struct attention *a, size_t t, size_t i, char *scores)
{
    for (size_t r = 16 * i; r < 16 * i + 16; r += ROWS)
        product(scores + r * LINE, a->keys + (t + r) * a->Dp * 2, a->Dp * 2, a->q, a->Dp / 2, 0);
}

/* out[16 i .. 16 i + 15, :] += v^T p of the block of keys from t on. */
static void multiply_values(const struct attention *a, size_t t, size_t i, const char *pairs)
{
    for (size_t r = 16 * i; r < 16 * i + 16; r += ROWS)
        for (size_t step = 0; step < KEYS / 32; step++)
            product(a->out + r * LINE, a->values + ((t + 32 * step) * a->Dm + r * 32) * 2, 64, pairs + step * 16 * LINE, 16, 1);
}

static void attend(struct attention *a, const struct tx_attention_bf16 *job, size_t q0, size_t rows)
{
    const size_t blocks = (a->Tk + KEYS - 1) / KEYS, parts = KEYS / 16;
    a->wide = rows > 16;
    for (int g = 0; g < 2; g++)
        a->sum[g][0] = a->sum[g][1] = _mm512_setzero_ps();
    for (size_t d = 0; d < a->Dm * LINE; d += 64)
        _mm512_store_si512(a->out + d, _mm512_setzero_si512());
    turn_queries(a, job, q0, rows);
    for (size_t i = 0; i < parts; i++)
        multiply_scores(a, 0, i, a->scores[0]);
    for (size_t b = 0; b < blocks; b++) {
        const char *scores = a->scores[b % 2];
        char *pairs = a->pairs[b % 2];
        const size_t count = a->Tk - b * KEYS < KEYS ? a->Tk - b * KEYS : KEYS;
        __m512 shrink[2];
        const int rescaled = rebase(a, scores, count, b == 0, shrink);
        for (size_t i = 0; i < parts; i++) {
            if (b + 1 < blocks)
                multiply_scores(a, (b + 1) * KEYS, i, a->scores[(b + 1) % 2]);
            for (size_t d = i; b > 0 && d < a->outputs; d += parts)
                multiply_values(a, (b - 1) * KEYS, d, a->pairs[(b - 1) % 2]);
            soften(a, scores + 16 * i * LINE, pairs + 8 * i * LINE, count > 16 * i ? count - 16 * i : 0);
        }
        if (rescaled)
            rescale(a, shrink);
    }
    for (size_t d = 0; d < a->outputs; d++)
        multiply_values(a, (blocks - 1) * KEYS, d, a->pairs[(blocks - 1) % 2]);
    store_rows(a, job, q0, rows);
}

size_t txk_attention_bf16_scratch_avx512bf16(size_t Tk, size_t Dh)
{
    struct attention a = {.Tk = Tk, .Dh = Dh};
    return carve(&a, NULL);
}

void txk_attention_bf16_avx512bf16(const struct tx_attention_bf16 *job)
{
    struct attention a = {.Tk = job->Tk, .Dh = job->Dh, .log2_scale = _mm512_set1_ps(job->scale * 1.44269504088896341f)};
    carve(&a, job->scratch);
    copy_keys(&a, job);
    turn_values(&a, job);
    for (size_t q0 = 0; q0 < job->Tq; q0 += QUERIES)
        attend(&a, job, q0, job->Tq - q0 < QUERIES ? job->Tq - q0 : QUERIES);
}
