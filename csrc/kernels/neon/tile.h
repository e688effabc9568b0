/* The product of a few rows of A with one panel of W, in registers: C[MR, 4 NV] = A[MR,K] W[K,16], the heart of GEMM and
 * attention.
 *
 * MR is at most 6 and NV is 4 (2: the upper half of the panel is not wanted). 6 x 4 sums, 4 k of each of 6 rows of A, and two
 * vectors of W fill the 32 registers: NEON multiplies by a lane, so 22 loads serve 96 multiply-adds.
 *
 * Each element of C is one chain of multiply-adds over ascending k, whatever the tile is and however K is cut into pieces
 * (`more` takes up the sum where C left it), so its bits depend on nothing else.
 *
 * A is read in place, MR streams; W is packed, 16 columns a k. */
#ifndef TXK_NEON_TILE_H
#define TXK_NEON_TILE_H

#include "simd.h"

enum { TILE_ROWS = 6, PANEL = 16 };

struct tile_f32 {
    const float *a;
    size_t lda;
    const float *w;         /* [K,16] */
    size_t K;
    float *c;               /* [MR,16], rows ldc apart */
    size_t ldc;
    int more;               /* 1: add to what is in c */
};

/* Loads of W stay where they stand: gcc would have them all early, and then spill sums. */
#define TILE_IN_TURN() __asm__ volatile("" ::: "memory")

/* In assembly, since gcc 12 broadcasts lane 0 apart, and then spills sums for want of registers. */
#define TILE_SUM(sum, x, a, l) __asm__("fmla %0.4s, %1.4s, %2.s[" #l "]" : "+w"(sum) : "w"(x), "w"(a))

#define TILE_LANE(l)                                                           \
    _Pragma("GCC unroll 4") for (int j = 0; j < NV; j++)                       \
    {                                                                          \
        TILE_IN_TURN();                                                        \
        const float32x4_t x = vld1q_f32(w + (l)*PANEL + 4 * j);                \
        _Pragma("GCC unroll 6") for (int i = 0; i < MR; i++)                   \
            TILE_SUM(acc[i][j], x, a[i], l);                                   \
    }

/* MR and NV are constants wherever this is inlined. */
TXK_INLINE void tile_f32(const struct tile_f32 *t, const int MR, const int NV)
{
    float32x4_t acc[TILE_ROWS][4], a[TILE_ROWS];
    float *c = t->c;
    const size_t ldc = t->ldc, lda = t->lda;
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++)
            acc[i][j] = t->more ? vld1q_f32(c + i * ldc + 4 * j) : vdupq_n_f32(0);
    const float *w = t->w, *from = t->a;
    size_t k = t->K;
    for (; k >= 4; k -= 4) {
#pragma GCC unroll 6
        for (int i = 0; i < MR; i++)
            a[i] = vld1q_f32(from + i * lda);
        TILE_LANE(0) TILE_LANE(1) TILE_LANE(2) TILE_LANE(3)
        w += 4 * PANEL;
        from += 4;
    }
    for (; k > 0; k--) {
#pragma GCC unroll 6
        for (int i = 0; i < MR; i++)
            a[i] = vld1q_dup_f32(from + i * lda);
        TILE_LANE(0)
        w += PANEL;
        from++;
    }
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++)
            vst1q_f32(c + i * ldc + 4 * j, acc[i][j]);
}

/* Rows of part `i` of `parts` that split M as evenly as whole rows allow: 32 becomes six tiles of 5 or 6 and none of 2. */
TXK_INLINE size_t part_begin(size_t M, size_t parts, size_t i)
{
    return M / parts * i + (i < M % parts ? i : M % parts);
}

#endif
