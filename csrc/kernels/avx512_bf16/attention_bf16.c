/* attention_bf16 with vdpbf16ps: out[Tq,Dh] = softmax(scale (q k^T + bias)) v of one head. avx512/attention.h has layout,
 * method and bounds; a step of a product takes two elements of Dh, or two keys. v is copied so that two keys' elements lie
 * side by side, k only where Dh is odd.
 *
 * 2^x by a cubic: 9e-5 relative, a fortieth of bfloat16's rounding. Sums are of the unrounded probabilities. */
#define SPACING 2
#define PAIR 2
#define DOT "vdpbf16ps"
#define DOT_PLAIN(c, x, w) _mm512_dpbf16_ps(c, (__m512bh)(x), (__m512bh)(w))
#include "row.h"
#include "../avx512/attention.h"

/* 2^f for 0 <= f < 1 with the smallest largest relative error, 2^0 = 1 held (as polynomials.py does it). */
static const float poly_pow2[4] = {0x1.000000p+0f, 0x1.63e658p-1f, 0x1.d23788p-3f, 0x1.3baaa8p-4f};

/* 2^x for x up to 127 or so; 0 for -inf; NaN stays. vreduceps leaves x - floor(x), and vscalefps takes floor(x) itself. */
TXK_INLINE __m512 power_of_2(__m512 x)
{
    const __m512 f = _mm512_reduce_ps(x, 1);
    __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(poly_pow2[3]), _mm512_set1_ps(poly_pow2[2]));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(poly_pow2[1]));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(poly_pow2[0]));
    return _mm512_scalef_ps(p, x);
}

TXK_INLINE void soften_pair(struct attention *a, float *p, const float *scores, size_t pair, size_t g, size_t rows, size_t NV)
{
    /* The two halves of a rounded vector (16 even keys, 16 odd) become pairs. */
    const __m512i weave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                           20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const float *s = scores + 16 * (2 * pair * NV + g);
    const __m512 base = _mm512_load_ps(a->base + 16 * g), factor = _mm512_set1_ps(a->factor);
    /* Product and difference by themselves, as the base is made: at a maximum of any size 0 is left. */
    const __m512 even = power_of_2(_mm512_sub_ps(_mm512_mul_ps(_mm512_load_ps(s), factor), base));
    __m512 odd = _mm512_setzero_ps();
    if (2 * pair + 1 < rows)
        odd = power_of_2(_mm512_sub_ps(_mm512_mul_ps(_mm512_load_ps(s + 16 * NV), factor), base));
    _mm512_store_ps(a->sum + 16 * g, _mm512_add_ps(_mm512_load_ps(a->sum + 16 * g), _mm512_add_ps(even, odd)));
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
    _mm512_store_si512(p + 16 * (pair * NV + g), _mm512_permutexvar_epi16(weave, both));
}

TXK_INLINE void shrink_line(float *p, __m512 shrink)
{
    const __m512i pairs = _mm512_load_si512(p), high = _mm512_set1_epi32((int)0xffff0000);
    const __m512 even = _mm512_scalef_ps(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), shrink);
    const __m512 odd = _mm512_scalef_ps(_mm512_castsi512_ps(_mm512_and_si512(pairs, high)), shrink);
    _mm512_store_si512(
        p, _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(even), 16), _mm512_and_si512(_mm512_castps_si512(odd), high)));
}

static size_t up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

struct copies {
    char *keys, *values;    /* keys: NULL where k is read in place */
};

static size_t carve(struct attention *a, struct copies *copies, char *scratch)
{
    float *s = (float *)scratch;
    a->q = s, s += up(a->Dh, 32) / 2 * QUERIES;
    a->p = s, s += BLOCK / PAIR * QUERIES;
    a->out = s, s += a->Dh * QUERIES;
    for (int i = 0; i < 2; i++)
        a->scores[i] = s, s += ROWS * QUERIES;
    a->ldv = up(a->Dh, 16) * sizeof *s;
    a->values = copies->values = (char *)s, s += up(a->Tk, 2) / 2 * up(a->Dh, 16);
    copies->keys = NULL;
    if (a->Dh % 2) {
        a->ldk = up(a->Dh, 32) * sizeof(uint16_t);
        a->keys = copies->keys = (char *)s, s += a->Tk * up(a->Dh, 32) / 2;
    }
    return (size_t)((char *)s - scratch);
}

/* 32 elements from d on of a row, zeros behind Dh; NULL: a row of zeros. */
TXK_INLINE __m512i elements(const uint16_t *row, size_t d, size_t Dh)
{
    if (!row || d >= Dh)
        return _mm512_setzero_si512();
    return _mm512_maskz_loadu_epi16(Dh - d >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << (Dh - d)) - 1, row + d);
}

static void copy_keys(char *keys, size_t ldk, const struct tx_attention_bf16 *job)
{
    for (size_t t = 0; t < job->Tk; t++)
        for (size_t d = 0; d < job->Dh; d += 32)
            _mm512_store_si512(keys + t * ldk + 2 * d, elements(job->k + t * job->ldk, d, job->Dh));
}

/* The dwords (keys 2 i and 2 i + 1, d) row by row. */
static void pair_values(char *values, size_t ldv, const struct tx_attention_bf16 *job)
{
    for (size_t t = 0; t < job->Tk; t += 2)
        for (size_t d = 0; d < job->Dh; d += 16) {
            const __mmask16 lanes = lanes_f32x16(job->Dh - d);
            const uint16_t *v = job->v + t * job->ldv + d;
            if (t + 17 < job->Tk) { /* rows lie pages apart, where no hardware looks ahead */
                _mm_prefetch((const char *)(v + 16 * job->ldv), _MM_HINT_T0);
                _mm_prefetch((const char *)(v + 17 * job->ldv), _MM_HINT_T0);
            }
            const __m256i even = _mm256_maskz_loadu_epi16(lanes, v);
            const __m256i odd = t + 1 < job->Tk ? _mm256_maskz_loadu_epi16(lanes, v + job->ldv) : _mm256_setzero_si256();
            _mm512_store_si512(values + t / 2 * ldv + 4 * d,
                               _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16)));
        }
}

static void turn_queries(struct attention *a, const struct tx_attention_bf16 *job, size_t q0, size_t rows)
{
    for (size_t g = 0; g < a->NV; g++)
        for (size_t d = 0; d < a->Dh; d += 32) {
            __m512i r[16];
            for (size_t i = 0; i < 16; i++)
                r[i] = elements(16 * g + i < rows ? job->q + (q0 + 16 * g + i) * job->ldq : NULL, d, a->Dh);
            transpose_32x16x16(r);
            for (size_t i = 0; i < 16; i++)
                _mm512_store_si512(a->q + 16 * ((d / 2 + i) * a->NV + g), r[i]);
        }
}

static void store_rows(const struct attention *a, const struct tx_attention_bf16 *job, size_t q0, size_t rows)
{
    for (size_t g = 0; g < a->NV; g++) {
        const __m512 share = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_load_ps(a->sum + 16 * g));
        for (size_t d = 0; d < a->Dh; d += 16) {
            __m512i r[16];
            turn_output(a, g, d, share, r);
            for (size_t i = 0; i < 16 && 16 * g + i < rows; i++)
                _mm256_mask_storeu_epi16(job->out + (q0 + 16 * g + i) * job->ldo + d, lanes_f32x16(a->Dh - d),
                                         bf16_of_f32x16(_mm512_castsi512_ps(r[i])));
        }
    }
}

size_t txk_attention_bf16_scratch_avx512_bf16(size_t Tk, size_t Dh)
{
    struct attention a = {.Tk = Tk, .Dh = Dh};
    struct copies copies;
    return carve(&a, &copies, NULL);
}

void txk_attention_bf16_avx512_bf16(const struct tx_attention_bf16 *job)
{
    struct attention a = {
        .Tk = job->Tk, .Dh = job->Dh, .steps = (job->Dh + 1) / 2, .factor = job->scale * 1.44269504088896341f,
        .keys = (const char *)job->k, .ldk = job->ldk * sizeof(uint16_t), .bias_factor = 1.0f,
    };
    struct copies copies;
    carve(&a, &copies, job->scratch);
    if (copies.keys)
        copy_keys(copies.keys, a.ldk, job);
    pair_values(copies.values, a.ldv, job);
    for (size_t q0 = 0; q0 < job->Tq; q0 += QUERIES) {
        const size_t rows = job->Tq - q0 < QUERIES ? job->Tq - q0 : QUERIES;
        a.NV = (rows + 15) / 16;
        a.bias = job->bias ? job->bias + q0 : NULL;
        turn_queries(&a, job, q0, rows);
        attend(&a);
        store_rows(&a, job, q0, rows);
    }
}
