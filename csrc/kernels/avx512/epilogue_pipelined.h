/* The epilogue of a tile beside the products of the next one: a vector of 16 sums at a time, in four stages that stand between
 * steps of k. The same bits as narrow_rows_run of epilogue_narrow.h; whole panels only, without activation or with GELU.
 *
 * A CPU with one 512-bit multiplier (Zen 4) does additions, integers, permutations and conversions for nothing beside products,
 * if they come a few at a time and are ready when they come: in one piece the vector's chain fills the scheduler, and products
 * wait behind it. What reads three registers or makes a mask takes the multiplier's ports, hence two permutations and a blend
 * in place of one permutation of two registers, and integers in place of a comparison. Constants are read from memory, since
 * the sums have the registers. */
#ifndef TXK_AVX512_EPILOGUE_PIPELINED_H
#define TXK_AVX512_EPILOGUE_PIPELINED_H

#include "epilogue_narrow.h"

enum { PIPELINED_STAGES = 4 };

struct pipelined_vector {
    const char *c;          /* sums */
    const float *a_scale;   /* of this row; int8 only */
    const float *w_scale, *bias, *gate; /* [32], of this panel; bias and gate (group 0) may be NULL */
    const float *residual;  /* [32] of this row, or NULL */
    const int32_t *group;   /* of this row, or NULL */
    size_t ldr, ldg;
    char *out;
    size_t next_row;        /* bytes from a row's second vector to the next row's first */
    size_t half;            /* 0 or 1: which vector of the row */
    int out_bf16;
    ptrdiff_t fetch;        /* from out to what is fetched to be written: the place of the sums that are being made */
    __m512 y, m, u, p;      /* between stages */
    __mmask16 inside, upper;
};

TXK_INLINE void pipelined_start(struct pipelined_vector *v, const struct narrow_rows *rows, const char *to, const int int8)
{
    const struct tx_gemm_narrow *job = rows->job;
    const struct tx_epilogue_f32 *e = &job->epilogue;
    const size_t m = rows->m, n = rows->n, size = job->out_bf16 ? 2 : 4;
    v->c = rows->c;
    v->a_scale = int8 ? job->a_scale + m : NULL;
    v->w_scale = int8 ? job->w_scale + n : NULL;
    v->bias = e->bias ? e->bias + n : NULL;
    v->residual = e->residual ? e->residual + m * e->ldr + n : NULL;
    v->ldr = e->ldr;
    v->gate = e->residual && e->gate ? e->gate + n : NULL;
    v->group = v->gate && e->group ? e->group + m : NULL;
    v->ldg = e->ldg;
    v->out = (char *)job->out + (m * job->ldo + n) * size;
    v->fetch = to - v->out;
    v->next_row = (job->ldo - 16) * size;
    v->half = 0;
    v->out_bf16 = job->out_bf16;
}

struct pipelined_constants {
    float segments, magic, width, limit;
    int32_t magnitude, sixteen, infinity, below_half, one;
};
static const struct pipelined_constants pipelined_constants = {
    16.0f / 3.0f, 0x1.8p23f, 0.1875f, 31.5f * 0.1875f, 0x7fffffff, 16, 0x7f800000, 0x7fff, 1};

/* b where k, else a. In assembly, or gcc makes a permutation of three operands of it. */
TXK_INLINE __m512 pipelined_blend(__mmask16 k, __m512 a, __m512 b)
{
    __m512 y;
    __asm__("vblendmps %[b], %[a], %[y]%{%[k]%}" : [y] "=v"(y) : [k] "Yk"(k), [a] "v"(a), [b] "v"(b));
    return y;
}

/* gelu_table_f32x16 of simd.h in three parts. */
TXK_INLINE void pipelined_gelu(struct pipelined_vector *v, const int stage, const float (*table)[32],
                               const struct pipelined_constants *q)
{
    const __m512i segment = _mm512_castps_si512(v->m);
    if (stage == 1) {
        const __m512 t = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v->y), _mm512_set1_epi32(q->magnitude)));
        v->m = _mm512_fmadd_ps(t, _mm512_set1_ps(q->segments), _mm512_set1_ps(q->magic));
        v->inside = _mm512_cmp_ps_mask(t, _mm512_set1_ps(q->limit), _CMP_NGE_UQ);
        v->u = _mm512_fnmadd_ps(_mm512_sub_ps(v->m, _mm512_set1_ps(q->magic)), _mm512_set1_ps(q->width), t);
        v->upper = _mm512_test_epi32_mask(_mm512_castps_si512(v->m), _mm512_set1_epi32(q->sixteen));
        v->y = _mm512_max_ps(v->y, _mm512_setzero_ps());
    }
#define HALF(from) _mm512_permutexvar_ps(segment, _mm512_load_ps(from))
#define C(i) pipelined_blend(v->upper, HALF(table[i]), HALF(table[i] + 16))
    if (stage == 2) {
        v->p = C(4);
        v->p = _mm512_fmadd_ps(v->p, v->u, C(3));
        v->p = _mm512_fmadd_ps(v->p, v->u, C(2));
    }
    if (stage == 3) {
        v->p = _mm512_fmadd_ps(v->p, v->u, C(1));
        v->y = _mm512_sub_ps(v->y, _mm512_maskz_fmadd_ps(v->inside, v->p, v->u, C(0)));
    }
#undef C
#undef HALF
}

/* A result of arithmetic, so no signalling NaN: as bf16_of_f32x16. */
TXK_INLINE __m256i pipelined_bf16(__m512 y, const struct pipelined_constants *q)
{
#ifdef __AVX512BF16__
    (void)q;
    return bf16_of_f32x16(y);
#else
    const __m512i bits = _mm512_castps_si512(y), magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(q->magnitude));
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(q->one));
    const __m512i nan = _mm512_srai_epi32(_mm512_sub_epi32(_mm512_set1_epi32(q->infinity), magnitude), 31);
    const __m512i more = _mm512_andnot_si512(nan, _mm512_add_epi32(odd, _mm512_set1_epi32(q->below_half)));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_add_epi32(bits, more), 16));
#endif
}

TXK_INLINE void pipelined_store(struct pipelined_vector *v, const struct pipelined_constants *q)
{
    const size_t half = v->half;
    if (v->out_bf16) {
        _mm256_storeu_si256((__m256i *)v->out, pipelined_bf16(v->y, q));
    } else {
        __m512 y = v->y;
        if (v->residual) {
            const __m512 r = _mm512_loadu_ps(v->residual + 16 * half);
            const float *gate = v->gate && v->group ? v->gate + (size_t)*v->group * v->ldg : v->gate;
            y = gate ? _mm512_fmadd_ps(_mm512_loadu_ps(gate + 16 * half), y, r) : _mm512_add_ps(r, y);
            v->residual += half ? v->ldr : 0;
            v->group += v->group ? half : 0;
        }
        _mm512_storeu_ps((float *)v->out, y);
    }
    v->c += 64;
    v->out += half ? v->next_row : v->out_bf16 ? 32 : 64;
    v->a_scale += v->a_scale ? half : 0;
    v->half = half ^ 1;
}

/* `act`: TX_ACT_NONE, TX_ACT_GELU_ERF or TX_ACT_GELU_TANH. */
TXK_INLINE void pipelined_run(struct pipelined_vector *v, const int stage, const int act, const int int8)
{
    const struct pipelined_constants *q = &pipelined_constants;
    const float(*table)[32] = act == TX_ACT_GELU_ERF ? poly_gelu_erf : poly_gelu_tanh;
    __asm__ volatile("" : "+r"(q), "+r"(table)); /* or gcc loads them all before the loop, and spills */
    if (stage == 0) {
        prefetch_to_write(v->out + v->fetch);
        v->y = _mm512_load_ps((const float *)v->c);
        if (int8) {
            const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(*v->a_scale), _mm512_loadu_ps(v->w_scale + 16 * v->half));
            v->y = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_castps_si512(v->y)), scale);
        }
        if (v->bias)
            v->y = _mm512_add_ps(v->y, _mm512_loadu_ps(v->bias + 16 * v->half));
    }
    if (act != TX_ACT_NONE)
        pipelined_gelu(v, stage, table, q);
    if (stage == PIPELINED_STAGES - 1)
        pipelined_store(v, q);
}

#endif
