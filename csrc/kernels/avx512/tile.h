/* The product of a few rows of A with one panel of W, in registers: C[MR, 16 NV] = A[MR,K] W[K, 16 NV].
 *
 * MR x NV is at most 6 x 4: 24 accumulators, 4 vectors of W and one broadcast of A, 10 loads for 24 multiply-adds. Larger tiles
 * fit, but loads for each multiply-add are what counts: all of these tiles do two multiply-adds a cycle, and the clock falls
 * with the power that loads take (14 x 2 has 16 loads for 28 and was 6% slower, 9 x 3 with 12 for 27 was 2%;
 * benchmarks/RESULTS.md). Each element of C is a chain of multiply-adds over ascending k, whatever the tile is and however K is
 * cut into pieces (`more` takes up the chain where C left it), so its bits depend on nothing else. A chain that is whole may
 * join the sum of those before it (`sum`), so that the error does not grow with K.
 *
 * A is read in place, MR streams; W is packed, so that its rows are aligned and need no masks.
 * Not here: masks on rows (the caller picks MR) and the epilogue (it works on C while that is in L1). */
#ifndef TXK_AVX512_TILE_H
#define TXK_AVX512_TILE_H

#include "fetch.h"

enum { TILE_ROWS = 6, TILE_VECTORS = 4 };

struct tile_f32 {
    const float *a;
    size_t lda;
    const float *w;         /* 64-byte aligned */
    size_t K;
    float *c;               /* [MR, 16 NV], rows ldc apart, 64-byte aligned */
    size_t ldc;
    int more;               /* 1: go on from what is in c */
    float *sum;             /* as c, where the chain ends: put, or with `add` added, here rather than in c; or NULL */
    int add;
    struct fetch ahead;     /* so many lines every 4 k */
};

/* acc[i][j] += A[i, k] * w[j] for one row i and one k (both literals: they become part of the instruction's address).
 *
 * In assembly, since gcc 12 (a) folds the broadcast into each multiply-add, which doubles the loads, and (b) makes up an
 * address register for each row and keeps most of them on the stack. Rows 3g, 3g+1 and 3g+2 lie 0, 1 and 2 ld past base[g]: one
 * index register serves all. The sanitizers see the plain version. */
#if defined(__SANITIZE_ADDRESS__)
#define TILE_ROW(i, k)                                                                      \
    if (MR > i) {                                                                           \
        const __m512 x = _mm512_set1_ps(((const float *)(base[i / 3] + i % 3 * ld))[k]);    \
        for (int j = 0; j < NV; j++)                                                        \
            acc[i][j] = _mm512_fmadd_ps(x, w[j], acc[i][j]);                                \
    }
#else
#define TILE_ROW(i, k)                                                                      \
    if (MR > i && i % 3 == 0) TILE_ROW_AT(i, #k "*4(%[base])")                              \
    if (MR > i && i % 3 == 1) TILE_ROW_AT(i, #k "*4(%[base],%[ld])")                        \
    if (MR > i && i % 3 == 2) TILE_ROW_AT(i, #k "*4(%[base],%[ld],2)")
#define TILE_ROW_AT(i, address)                                                                       \
    {                                                                                                 \
        __m512 x;                                                                                     \
        __asm__("vbroadcastss " address ", %[x]"                                                      \
                : [x] "=v"(x)                                                                         \
                : [base] "r"(base[i / 3]), [ld] "r"(ld), "m"(*(const float(*)[1 << 16])base[i / 3])); \
        TILE_FMA(i, 0) TILE_FMA(i, 1) TILE_FMA(i, 2) TILE_FMA(i, 3)                                   \
    }
#define TILE_FMA(i, j)                                                                      \
    if (NV > j)                                                                             \
        __asm__("vfmadd231ps %[w], %[x], %[c]" : [c] "+v"(acc[i][j]) : [w] "v"(w[j]), [x] "v"(x));
#endif

#define TILE_ROWS_AT(k)                                                                     \
    TILE_ROW(0, k) TILE_ROW(1, k) TILE_ROW(2, k) TILE_ROW(3, k) TILE_ROW(4, k) TILE_ROW(5, k)

#define TILE_LOAD(j)                                                                        \
    if (NV > j)                                                                             \
        w[j] = _mm512_load_ps(w_row + 16 * j);

#define TILE_K(k)                                                                           \
    {                                                                                       \
        __m512 w[TILE_VECTORS];                                                             \
        TILE_LOAD(0) TILE_LOAD(1) TILE_LOAD(2) TILE_LOAD(3)                                 \
        w_row += ldw;                                                                       \
        TILE_ROWS_AT(k)                                                                     \
    }

/* MR, NV and the distance between rows of W are constants wherever this is inlined. */
TXK_INLINE void tile_f32(const struct tile_f32 *t, const int MR, const int NV, const size_t ldw)
{
    __m512 acc[TILE_ROWS][TILE_VECTORS];
    float *c = t->c;
    const size_t ldc = t->ldc;
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++)
            acc[i][j] = t->more ? _mm512_load_ps(c + i * ldc + 16 * j) : _mm512_setzero_ps();

    const size_t ld = t->lda * sizeof(float);
    const float *w_row = t->w;
    const char *base[2];
    struct fetch ahead = t->ahead;
    size_t k = t->K;
#pragma GCC unroll 2
    for (int g = 0; g < (MR + 2) / 3; g++)
        base[g] = (const char *)t->a + (size_t)(3 * g) * ld;
    for (; k >= 4; k -= 4) {
        fetch_step(&ahead);
        TILE_K(0) TILE_K(1) TILE_K(2) TILE_K(3)
#pragma GCC unroll 2
        for (int g = 0; g < (MR + 2) / 3; g++)
            base[g] += 4 * sizeof(float);
    }
    for (; k > 0; k--) {
        TILE_K(0)
#pragma GCC unroll 2
        for (int g = 0; g < (MR + 2) / 3; g++)
            base[g] += sizeof(float);
    }

    /* Asked once: gcc would look at t again after every store, which might have changed it. */
    float *const to = t->sum ? t->sum : c;
    if (t->sum && t->add)
#pragma GCC unroll 6
        for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
            for (int j = 0; j < NV; j++)
                acc[i][j] = _mm512_add_ps(_mm512_load_ps(to + i * ldc + 16 * j), acc[i][j]);
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++)
            _mm512_store_ps(to + i * ldc + 16 * j, acc[i][j]);
}

/* Where part `i` begins of `parts` that split M as evenly as whole numbers allow: 14 rows become 5 + 5 + 4 and not 6 + 6 +
 * 2. */
TXK_INLINE size_t part_begin(size_t M, size_t parts, size_t i)
{
    return M / parts * i + (i < M % parts ? i : M % parts);
}

#endif
