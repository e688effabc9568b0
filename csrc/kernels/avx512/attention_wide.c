/* Attention by float32 multiply-adds: attention_f32, and attention_bf16 where there is no instruction for that, the element
 * type a constant of each. attention.h has layout, method and bounds; q is multiplied by scale log2(e) when it is turned
 * around. Keys and values in bfloat16 are copied once, widened. */
#define SPACING 4
#define PAIR 1
#define DOT "vfmadd231ps"
#define DOT_PLAIN(c, x, w) _mm512_fmadd_ps(x, w, c)
#include "../attention_head.h"
#include "row.h"
#include "attention.h"

/* 16 elements from d on of a row of Dh, zeros behind. */
TXK_INLINE __m512 widened(const void *matrix, size_t row, size_t ld, size_t d, size_t Dh, const int bf16)
{
    if (bf16)
        return f32_of_bf16x16(_mm256_maskz_loadu_epi16(lanes_f32x16(Dh - d), (const uint16_t *)matrix + row * ld + d));
    return _mm512_maskz_loadu_ps(lanes_f32x16(Dh - d), (const float *)matrix + row * ld + d);
}

TXK_INLINE void soften_pair(struct attention *a, float *p, const float *scores, size_t pair, size_t g, size_t rows, size_t NV)
{
    const size_t at = 16 * (2 * pair * NV + g), next = at + 16 * NV;
    const __m512 base = _mm512_load_ps(a->base + 16 * g);
    __m512 sum = _mm512_load_ps(a->sum + 16 * g);
    __m512 e = exp2_f32x16(_mm512_sub_ps(_mm512_load_ps(scores + at), base));
    _mm512_store_ps(p + at, e);
    sum = _mm512_add_ps(sum, e);
    if (2 * pair + 1 < rows) {
        e = exp2_f32x16(_mm512_sub_ps(_mm512_load_ps(scores + next), base));
        _mm512_store_ps(p + next, e);
        sum = _mm512_add_ps(sum, e);
    }
    _mm512_store_ps(a->sum + 16 * g, sum);
}

TXK_INLINE void shrink_line(float *p, __m512 shrink)
{
    _mm512_store_ps(p, _mm512_scalef_ps(_mm512_load_ps(p), shrink));
}

/* Elements between rows of a widened copy. */
TXK_INLINE size_t wide_ld(size_t Dh)
{
    return (Dh + 15) / 16 * 16;
}

/* Bytes; `copies`: two of [Tk, wide_ld] for keys and values in bfloat16. */
TXK_INLINE size_t carve(struct attention *a, float *copies[2], float *scratch, const int bf16)
{
    float *s = scratch;
    a->q = s, s += a->Dh * QUERIES;
    a->p = s, s += BLOCK * QUERIES;
    a->out = s, s += a->Dh * QUERIES;
    for (int i = 0; i < 2; i++)
        a->scores[i] = s, s += ROWS * QUERIES;
    for (int i = 0; i < 2 && bf16; i++)
        copies[i] = s, s += a->Tk * wide_ld(a->Dh);
    return (size_t)(s - scratch) * sizeof(float);
}

TXK_INLINE void widen_rows(float *copy, const void *matrix, size_t ld, size_t Tk, size_t Dh)
{
    for (size_t t = 0; t < Tk; t++)
        for (size_t d = 0; d < Dh; d += 16)
            _mm512_store_ps(copy + t * wide_ld(Dh) + d, widened(matrix, t, ld, d, Dh, 1));
}

TXK_INLINE void turn_queries(struct attention *a, const struct txk_head *head, size_t q0, size_t rows, const int bf16)
{
    const __m512 factor = _mm512_set1_ps(head->scale * 1.44269504088896341f);
    for (size_t g = 0; g < a->NV; g++)
        for (size_t d = 0; d < a->Dh; d += 16) {
            __m512 r[16];
            for (size_t i = 0; i < 16; i++)
                r[i] = 16 * g + i < rows
                           ? _mm512_mul_ps(factor, widened(head->q, q0 + 16 * g + i, head->ldq, d, a->Dh, bf16))
                           : _mm512_setzero_ps();
            transpose_f32x16(r);
            for (size_t i = 0; i < 16 && d + i < a->Dh; i++)
                _mm512_store_ps(a->q + 16 * ((d + i) * a->NV + g), r[i]);
        }
}

TXK_INLINE void store_rows(const struct attention *a, const struct txk_head *head, size_t q0, size_t rows, const int bf16)
{
    for (size_t g = 0; g < a->NV; g++) {
        const __m512 share = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_load_ps(a->sum + 16 * g));
        for (size_t d = 0; d < a->Dh; d += 16) {
            const __mmask16 lanes = lanes_f32x16(a->Dh - d);
            __m512i r[16];
            turn_output(a, g, d, share, r);
            for (size_t i = 0; i < 16 && 16 * g + i < rows; i++) {
                const size_t at = (q0 + 16 * g + i) * head->ldo + d;
                if (bf16)
                    _mm256_mask_storeu_epi16((uint16_t *)head->out + at, lanes, bf16_of_f32x16(_mm512_castsi512_ps(r[i])));
                else
                    _mm512_mask_storeu_ps((float *)head->out + at, lanes, _mm512_castsi512_ps(r[i]));
            }
        }
    }
}

TXK_INLINE size_t attention_scratch(size_t Tk, size_t Dh, const int bf16)
{
    struct attention a = {.Tk = Tk, .Dh = Dh};
    float *copies[2];
    return carve(&a, copies, NULL, bf16);
}

TXK_INLINE void attend_head(const struct txk_head *head, const int bf16)
{
    struct attention a = {
        .Tk = head->Tk, .Dh = head->Dh, .steps = head->Dh, .factor = 1.0f, .keys = head->k, .ldk = head->ldk * sizeof(float),
        .values = head->v, .ldv = head->ldv * sizeof(float), .bias_factor = head->scale * 1.44269504088896341f,
    };
    float *copies[2];
    carve(&a, copies, head->scratch, bf16);
    if (bf16) {
        widen_rows(copies[0], head->k, head->ldk, a.Tk, a.Dh);
        widen_rows(copies[1], head->v, head->ldv, a.Tk, a.Dh);
        a.keys = (const char *)copies[0], a.values = (const char *)copies[1];
        a.ldk = a.ldv = wide_ld(a.Dh) * sizeof(float);
    }
    for (size_t q0 = 0; q0 < head->Tq; q0 += QUERIES) {
        const size_t rows = head->Tq - q0 < QUERIES ? head->Tq - q0 : QUERIES;
        a.NV = (rows + 15) / 16;
        a.bias = head->bias ? head->bias + q0 : NULL;
        turn_queries(&a, head, q0, rows, bf16);
        attend(&a);
        store_rows(&a, head, q0, rows, bf16);
    }
}

size_t txk_attention_f32_scratch_avx512(size_t Tk, size_t Dh)
{
    return attention_scratch(Tk, Dh, 0);
}

void txk_attention_f32_avx512(const struct tx_attention_f32 *job)
{
    const struct txk_head head = TXK_HEAD_OF(job);
    attend_head(&head, 0);
}

size_t txk_attention_bf16_scratch_avx512(size_t Tk, size_t Dh)
{
    return attention_scratch(Tk, Dh, 1);
}

void txk_attention_bf16_avx512(const struct tx_attention_bf16 *job)
{
    const struct txk_head head = TXK_HEAD_OF(job);
    attend_head(&head, 1);
}
