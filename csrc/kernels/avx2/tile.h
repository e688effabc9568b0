/* The product of a few rows of A with one panel of W, in registers: C[MR, 8 NV] = A[MR,K] W[K,16], the heart of GEMM and
 * attention.
 *
 * MR is at most 6 and NV is 2 (1: the upper half of the panel is not wanted). 6 x 2 accumulators, two vectors of W and one or
 * two broadcasts of A fill the 16 registers. W may be bfloat16 (bf16): widening is an interleaving with zeros, on a port that
 * the multiply-adds leave idle, if the columns of a k lie in the order 0-3, 8-11, 4-7, 12-15 (AVX2 interleaves in either half
 * of a vector).
 *
 * Each element of C is one chain of multiply-adds over ascending k, whatever the tile is and however K is cut into pieces
 * (`more` takes up the chain where C left it), so its bits depend on nothing else; with `add` a chain joins the sum of others.
 *
 * A is read in place, MR streams; W is packed, 16 columns a k, 32-byte aligned.
 * Not here: masks (panels are padded) and the epilogue (it works on C while that is in L1). */
#ifndef TXK_AVX2_TILE_H
#define TXK_AVX2_TILE_H

#include "simd.h"

enum { TILE_ROWS = 6, PANEL = 16 };

struct tile_f32 {
    const float *a;
    size_t lda;
    const void *w;          /* [K,16] float32, or bfloat16 in that order */
    size_t K;
    float *c;               /* [MR,16], rows ldc apart, 32-byte aligned */
    size_t ldc;
    int more;               /* 1: go on from what is in c */
    int add;                /* 1: what was summed up is added to what is in c */
    const char *ahead;      /* prefetched into L2 as k goes, ahead_step bytes every 4 k */
    size_t ahead_step;
};

/* Fetches `step` bytes into L2, and tells where the next ones are. */
TXK_INLINE const char *fetch_ahead(const char *ahead, size_t step)
{
    for (size_t i = 0; i < step; i += 64)
        _mm_prefetch(ahead + i, _MM_HINT_T1);
    return ahead + step;
}

/* acc[i] += A[i, k] * w for one row i and one k (both literals: they become part of the instruction's address).
 *
 * In assembly, since gcc 12 picks multiply-adds that overwrite a factor, and then copies and spills to get it back. Rows 3g,
 * 3g+1 and 3g+2 lie 0, 1 and 2 ld past base[g]: one index register serves all. The sanitizers see the plain version. */
#if defined(__SANITIZE_ADDRESS__)
#define TILE_ROW(i, k)                                                                              \
    if (MR > i) {                                                                                   \
        const __m256 x = _mm256_broadcast_ss((const float *)(base[i / 3] + i % 3 * ld) + k);        \
        acc[i][0] = _mm256_fmadd_ps(x, w0, acc[i][0]);                                              \
        if (NV > 1)                                                                                 \
            acc[i][1] = _mm256_fmadd_ps(x, w1, acc[i][1]);                                          \
    }
#else
#define TILE_ROW(i, k)                                                                              \
    if (MR > i && i % 3 == 0) TILE_ROW_AT(i, #k "*4(%[base])")                                      \
    if (MR > i && i % 3 == 1) TILE_ROW_AT(i, #k "*4(%[base],%[ld])")                                \
    if (MR > i && i % 3 == 2) TILE_ROW_AT(i, #k "*4(%[base],%[ld],2)")
#define TILE_ROW_AT(i, address)                                                                       \
    {                                                                                                 \
        __m256 x;                                                                                     \
        __asm__("vbroadcastss " address ", %[x]"                                                      \
                : [x] "=x"(x)                                                                         \
                : [base] "r"(base[i / 3]), [ld] "r"(ld), "m"(*(const float(*)[1 << 16])base[i / 3])); \
        __asm__("vfmadd231ps %[w], %[x], %[c]" : [c] "+x"(acc[i][0]) : [w] "x"(w0), [x] "x"(x));      \
        if (NV > 1)                                                                                   \
            __asm__("vfmadd231ps %[w], %[x], %[c]" : [c] "+x"(acc[i][1]) : [w] "x"(w1), [x] "x"(x));  \
    }
#endif

#define TILE_K(k)                                                                                 \
    {                                                                                             \
        __m256 w0, w1;                                                                            \
        if (bf16) {                                                                               \
            const __m256i row = _mm256_load_si256((const __m256i *)w + k);                        \
            w0 = _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, row));                           \
            w1 = _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, row));                           \
        } else {                                                                                  \
            w0 = _mm256_load_ps((const float *)w + 16 * k);                                       \
            w1 = NV > 1 ? _mm256_load_ps((const float *)w + 16 * k + 8) : w0;                     \
        }                                                                                         \
        TILE_ROW(0, k) TILE_ROW(1, k) TILE_ROW(2, k) TILE_ROW(3, k) TILE_ROW(4, k) TILE_ROW(5, k) \
    }

/* MR, NV and bf16 are constants wherever this is inlined. */
TXK_INLINE void tile_f32(const struct tile_f32 *t, const int MR, const int NV, const int bf16)
{
    __m256 acc[TILE_ROWS][2];
    float *c = t->c;
    const size_t ldc = t->ldc;
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
        for (int j = 0; j < NV; j++)
            acc[i][j] = t->more ? _mm256_load_ps(c + i * ldc + 8 * j) : _mm256_setzero_ps();

    const size_t ld = t->lda * sizeof(float), ahead_step = t->ahead_step;
    const size_t w_step = PANEL * (bf16 ? sizeof(uint16_t) : sizeof(float));
    const __m256i zero = _mm256_setzero_si256();
    const char *w = t->w, *ahead = t->ahead, *base[2] = {(const char *)t->a, (const char *)t->a + (MR > 3 ? 3 * ld : 0)};
    size_t k = t->K;
    for (; k >= 4; k -= 4) {
        ahead = fetch_ahead(ahead, ahead_step);
        TILE_K(0) TILE_K(1) TILE_K(2) TILE_K(3)
        w += 4 * w_step;
        base[0] += 4 * sizeof(float);
        base[1] += 4 * sizeof(float);
    }
    for (; k > 0; k--) {
        TILE_K(0)
        w += w_step;
        base[0] += sizeof(float);
        base[1] += sizeof(float);
    }

    /* Asked once: gcc would look at t->add again after every store, which might have changed it. */
    if (t->add)
#pragma GCC unroll 6
        for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
            for (int j = 0; j < NV; j++)
                acc[i][j] = _mm256_add_ps(_mm256_load_ps(c + i * ldc + 8 * j), acc[i][j]);
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
        for (int j = 0; j < NV; j++)
            _mm256_store_ps(c + i * ldc + 8 * j, acc[i][j]);
}

/* Rows of part `i` of `parts` that split M as evenly as whole rows allow: 32 becomes six tiles of 5 or 6 and none of 2. */
TXK_INLINE size_t part_begin(size_t M, size_t parts, size_t i)
{
    return M / parts * i + (i < M % parts ? i : M % parts);
}

#endif
