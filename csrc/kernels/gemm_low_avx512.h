/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) with vectors, the body of gemm_bf16_avx512bf16.c and gemm_int8_avx512vnni.c, which bring the
 * products of a few rows with one panel (a low_tile_function each).
 *
 * The packed layout is that of pack_low_avx512.c: a line of 128 bytes holds the 32 columns' next 4 bytes of K, so one broadcast dword of A
 * meets two vectors of W. 12 rows at a time: 24 sums, two vectors of W and a broadcast. An element's sum is one chain over ascending K. */
#ifndef TXK_GEMM_LOW_AVX512_H
#define TXK_GEMM_LOW_AVX512_H

#include "epilogue_low_avx512.h"
#include "kernels_low_avx512.h"

enum { ROWS = 12, NR = 32, MOST_ROWS = 1200 /* of a block; a multiple of ROWS */ };

struct low_tile {
    const char *a;
    size_t lda;             /* bytes */
    const char *w;
    size_t dwords;          /* of K */
    char *c;                /* [rows, 32], 64-byte aligned */
    const int32_t *begin;   /* [rows] where int8 sums begin */
    const char *ahead;      /* prefetched into L2, ahead_step bytes a dword of K */
    size_t ahead_step;
};

TXK_INLINE __m512i broadcast_dword(const char *x)
{
    int32_t value;
    memcpy(&value, x, sizeof value);
    return _mm512_set1_epi32(value);
}

TXK_INLINE void fetch_ahead(const char *ahead, size_t step)
{
    _mm_prefetch(ahead, _MM_HINT_T1);
    if (step > 64)
        _mm_prefetch(ahead + 64, _MM_HINT_T1);
}

typedef void low_tile_function(const struct low_tile *tile);
#define LOW_TILES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#define LOW_TILE_NAMES {NULL, low_tile_1, low_tile_2, low_tile_3, low_tile_4, low_tile_5, low_tile_6, low_tile_7, low_tile_8, low_tile_9, \
                        low_tile_10, low_tile_11, low_tile_12}

/* `begin` finds where the sums of some rows of Kb bytes begin; NULL: at zero. */
TXK_INLINE void gemm_low(const struct tx_gemm_low *job, void (*rows_of_act)(struct low_rows *, size_t), low_tile_function *const *tiles,
                         void (*begin)(int32_t *begins, const char *a, size_t lda, size_t rows, size_t Kb), const size_t size)
{
    const size_t Kb = tx_k_padded(job->K) * size, lda = job->lda * size;
    char c[ROWS * NR * 4] __attribute__((aligned(64)));
    int32_t begins[MOST_ROWS];
    struct low_rows rows = {.job = job, .run = rows_of_act};
    /* Half of a 2 MB L2, which two threads may share. */
    size_t block = (1 << 20) / Kb / ROWS * ROWS;
    block = block < ROWS ? ROWS : block > MOST_ROWS ? MOST_ROWS : block;
    for (size_t m0 = 0; m0 < job->M; m0 += block) {
        const size_t count = job->M - m0 < block ? job->M - m0 : block, parts = (count + ROWS - 1) / ROWS;
        if (begin)
            begin(begins, (const char *)job->a + m0 * lda, lda, count, Kb);
        for (size_t n = job->n0; n < job->n1; n += NR) {
            const char *panel = (const char *)job->w + n / NR * Kb * NR;
            /* The panel after this one, shared out among the tiles. */
            const size_t step = 4 * NR / parts;
            const char *ahead = panel + (n + NR < job->n1 ? Kb * NR : 0);
            for (size_t i = 0; i < parts; i++) {
                const size_t m = m0 + count * i / parts, end = m0 + count * (i + 1) / parts;
                const struct low_tile tile = {.a = (const char *)job->a + m * lda, .lda = lda, .w = panel, .dwords = Kb / 4, .c = c, .begin = begins + (m - m0),
                                             .ahead = ahead + Kb / 4 * step * i, .ahead_step = step};
                tiles[end - m](&tile);
                low_rows_start(&rows, c, m, end - m, n);
                low_rows_next(&rows, end - m);
            }
        }
    }
}

#endif
