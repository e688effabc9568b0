/* attention_f32: out[Tq,Dh] = softmax(scale (q k^T + bias)) v of one head. attention.h has layout, method and bounds; q is
 * multiplied by scale log2(e) when it is turned around. */
#define SPACING 4
#define PAIR 1
#define DOT "vfmadd231ps"
#define DOT_PLAIN(c, x, w) _mm512_fmadd_ps(x, w, c)
#include "row.h"
#include "attention.h"

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

static size_t carve(struct attention *a, float *scratch)
{
    float *s = scratch;
    a->q = s, s += a->Dh * QUERIES;
    a->p = s, s += BLOCK * QUERIES;
    a->out = s, s += a->Dh * QUERIES;
    for (int i = 0; i < 2; i++)
        a->scores[i] = s, s += ROWS * QUERIES;
    return (size_t)(s - scratch) * sizeof(float);
}

static void turn_queries(struct attention *a, const struct tx_attention_f32 *job, size_t q0, size_t rows)
{
    const __m512 factor = _mm512_set1_ps(job->scale * 1.44269504088896341f);
    for (size_t g = 0; g < a->NV; g++)
        for (size_t d = 0; d < a->Dh; d += 16) {
            __m512 r[16];
            for (size_t i = 0; i < 16; i++)
                r[i] = 16 * g + i < rows
                           ? _mm512_mul_ps(factor, _mm512_maskz_loadu_ps(lanes_f32x16(a->Dh - d),
                                                                         job->q + (q0 + 16 * g + i) * job->ldq + d))
                           : _mm512_setzero_ps();
            transpose_f32x16(r);
            for (size_t i = 0; i < 16 && d + i < a->Dh; i++)
                _mm512_store_ps(a->q + 16 * ((d + i) * a->NV + g), r[i]);
        }
}

static void store_rows(const struct attention *a, const struct tx_attention_f32 *job, size_t q0, size_t rows)
{
    for (size_t g = 0; g < a->NV; g++) {
        const __m512 share = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_load_ps(a->sum + 16 * g));
        for (size_t d = 0; d < a->Dh; d += 16) {
            __m512i r[16];
            turn_output(a, g, d, share, r);
            for (size_t i = 0; i < 16 && 16 * g + i < rows; i++)
                _mm512_mask_storeu_ps(job->out + (q0 + 16 * g + i) * job->ldo + d, lanes_f32x16(a->Dh - d),
                                      _mm512_castsi512_ps(r[i]));
        }
    }
}

size_t txk_attention_f32_scratch_avx512(size_t Tk, size_t Dh)
{
    (void)Tk;
    struct attention a = {.Dh = Dh};
    return carve(&a, NULL);
}

void txk_attention_f32_avx512(const struct tx_attention_f32 *job)
{
    struct attention a = {
        .Tk = job->Tk, .Dh = job->Dh, .steps = job->Dh, .factor = 1.0f, .keys = (const char *)job->k,
        .ldk = job->ldk * sizeof(float), .values = (const char *)job->v, .ldv = job->ldv * sizeof(float),
    };
    carve(&a, job->scratch);
    a.bias_factor = job->scale * 1.44269504088896341f;
    for (size_t q0 = 0; q0 < job->Tq; q0 += QUERIES) {
        const size_t rows = job->Tq - q0 < QUERIES ? job->Tq - q0 : QUERIES;
        a.NV = (rows + 15) / 16;
        a.bias = job->bias ? job->bias + q0 : NULL;
        turn_queries(&a, job, q0, rows);
        attend(&a);
        store_rows(&a, job, q0, rows);
    }
}
