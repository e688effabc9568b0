/* The product of a few rows of A with one panel of W, in registers: C[MR, 16 NV] = A[MR,K] W[K, 16 NV], the heart of GEMM and attention.
 *
 * With MR = 14 and NV = 2 there are 28 accumulators, 2 vectors of W and 1 broadcast of A: 31 of the 32 registers. Per k that is 28
 * multiply-adds for 16 loads. Each element of C is one chain of multiply-adds over ascending k, whatever MR is and however K is cut
 * into pieces (`more` takes up the sum where C left it), so its bits depend on nothing else.
 *
 * A is read in place, MR streams; W rows are ldw apart and always readable in all 16 NV columns (or `lanes` cuts the last vector).
 * Not here: masks on rows (the caller picks MR) and the epilogue (it works on C while that is in L1). */
#ifndef TXK_TILE_AVX512_H
#define TXK_TILE_AVX512_H

#include "simd_avx512.h"

enum { TILE_ROWS = 14 };

struct tile_f32 {
    const float *a;
    size_t lda;
    const float *w;
    size_t ldw;
    size_t K;
    float *c;               /* [MR, 16 NV], rows ldc apart, 64-byte aligned */
    size_t ldc;
    int more;               /* 1: add to what is in c */
    __mmask16 lanes;        /* which lanes of the last vector of a W row may be read */
    const char *ahead;      /* prefetched into L2 as k goes, ahead_step bytes a k */
    size_t ahead_step;
};

/* One register for both multiply-adds of a row: gcc would fold the load into each of them, and the load ports would be the limit. */
TXK_INLINE __m512 broadcast_f32x16(const float *x)
{
#if defined(__SANITIZE_ADDRESS__)
    return _mm512_set1_ps(*x);
#else
    __m512 v;
    __asm__("vbroadcastss %1, %0" : "=v"(v) : "m"(*x));
    return v;
#endif
}

TXK_INLINE void tile_f32(const struct tile_f32 *t, const int MR, const int NV, const int masked)
{
    __m512 acc[TILE_ROWS][4];
    float *c = t->c;
    const size_t ldc = t->ldc;
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 16
        for (int j = 0; j < NV; j++)
            acc[i][j] = t->more ? _mm512_load_ps(c + i * ldc + 16 * j) : _mm512_setzero_ps();
    const float *a = t->a, *w = t->w;
    const size_t lda = t->lda, ldw = t->ldw, ahead_step = t->ahead_step;
    const char *ahead = t->ahead;
    const __mmask16 lanes = t->lanes;
    for (size_t k = t->K; k > 0; k--) {
        __m512 wv[4];
#pragma GCC unroll 16
        for (int j = 0; j < NV; j++)
            wv[j] = masked && j == NV - 1 ? _mm512_maskz_loadu_ps(lanes, w + 16 * j) : _mm512_loadu_ps(w + 16 * j);
        _mm_prefetch(ahead, _MM_HINT_T1);
    #pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
            const __m512 av = broadcast_f32x16(a + i * lda);
    #pragma GCC unroll 16
        for (int j = 0; j < NV; j++)
                acc[i][j] = _mm512_fmadd_ps(av, wv[j], acc[i][j]);
        }
        a += 1;
        w += ldw;
        ahead += ahead_step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 16
        for (int j = 0; j < NV; j++)
            _mm512_store_ps(c + i * ldc + 16 * j, acc[i][j]);
}

/* Rows of part `i` of `parts` that split M as evenly as whole rows allow: 32 becomes 11 + 11 + 10 and not 14 + 14 + 4. */
TXK_INLINE size_t part_begin(size_t M, size_t parts, size_t i)
{
    return M / parts * i + (i < M % parts ? i : M % parts);
}

#endif
