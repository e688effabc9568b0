/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) with vectors, the body of gemm_bf16_avx512bf16.c and gemm_int8_avx512vnni.c. Before they include
 * this they define LOW_DOT(sum, a, w), which adds the products of a dword of A, in every lane of `a`, with 16 columns of W, and LOW_INT8.
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
    size_t dwords;          /* of K: a multiple of 16 */
    char *c;                /* [rows, 32], 64-byte aligned */
    const int32_t *begin;   /* [rows] where int8 sums begin */
    const char *ahead;      /* prefetched into L2, ahead_step bytes every 4 dwords of K */
    size_t ahead_step;
};

/* The sums of row i with dword k (both literals). As in tile_avx512.h, rows 3g, 3g+1 and 3g+2 lie 0, 1 and 2 lda past base[g], and the
 * broadcast is in assembly: gcc 12 makes up an address register for each row and keeps two of twelve in vector registers, whose way back
 * takes the multipliers' ports (a tenth of the rate). The sanitizers see the plain version. */
#define LOW_ROW(i, k)                                                                       \
    if (rows > i) {                                                                         \
        __m512i x;                                                                          \
        LOW_BROADCAST(i, k)                                                                 \
        LOW_DOT(acc[i][0], x, left)                                                         \
        LOW_DOT(acc[i][1], x, right)                                                        \
    }
#if defined(__SANITIZE_ADDRESS__)
#define LOW_BROADCAST(i, k) x = _mm512_set1_epi32(((const int32_t *)(base[i / 3] + i % 3 * lda))[k]);
#else
#define LOW_BROADCAST(i, k)                                                                 \
    if (i % 3 == 0) LOW_BROADCAST_AT(i, #k "*4(%[base])")                                   \
    if (i % 3 == 1) LOW_BROADCAST_AT(i, #k "*4(%[base],%[lda])")                            \
    if (i % 3 == 2) LOW_BROADCAST_AT(i, #k "*4(%[base],%[lda],2)")
#define LOW_BROADCAST_AT(i, address)                                                        \
    __asm__("vpbroadcastd " address ", %[x]"                                                \
            : [x] "=v"(x)                                                                   \
            : [base] "r"(base[i / 3]), [lda] "r"(lda), "m"(*(const char(*)[])base[i / 3]));
#endif
#define LOW_K(k)                                                                            \
    {                                                                                       \
        const __m512i left = _mm512_load_si512(w + 4 * NR * k), right = _mm512_load_si512(w + 4 * NR * k + 64); \
        LOW_ROW(0, k) LOW_ROW(1, k) LOW_ROW(2, k) LOW_ROW(3, k) LOW_ROW(4, k) LOW_ROW(5, k) \
        LOW_ROW(6, k) LOW_ROW(7, k) LOW_ROW(8, k) LOW_ROW(9, k) LOW_ROW(10, k) LOW_ROW(11, k) \
    }

TXK_INLINE void low_tile(const struct low_tile *t, const int rows)
{
    __m512i acc[ROWS][2];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
        acc[i][0] = acc[i][1] = LOW_INT8 ? _mm512_set1_epi32(t->begin[i]) : _mm512_setzero_si512();
    const size_t lda = t->lda, ahead_step = t->ahead_step;
    const char *w = t->w, *ahead = t->ahead, *base[4];
#pragma GCC unroll 4
    for (int g = 0; g < (rows + 2) / 3; g++)
        base[g] = t->a + (size_t)(3 * g) * lda;
    for (size_t k = t->dwords; k > 0; k -= 4) {
        for (size_t i = 0; i < ahead_step; i += 64)
            _mm_prefetch(ahead + i, _MM_HINT_T1);
        ahead += ahead_step;
        LOW_K(0) LOW_K(1) LOW_K(2) LOW_K(3)
        w += 4 * 4 * NR;
#pragma GCC unroll 4
        for (int g = 0; g < (rows + 2) / 3; g++)
            base[g] += 4 * 4;
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        _mm512_store_si512(t->c + i * 4 * NR, acc[i][0]);
        _mm512_store_si512(t->c + i * 4 * NR + 64, acc[i][1]);
    }
}

#define LOW_TILES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#define LOW_TILE(rows) static void low_tile_##rows(const struct low_tile *t) { low_tile(t, rows); }
LOW_TILES(LOW_TILE)
#define LOW_TILE_NAME(rows) low_tile_##rows,
static void (*const low_tiles[ROWS + 1])(const struct low_tile *) = {NULL, LOW_TILES(LOW_TILE_NAME)};

LOW_ROWS_FUNCTIONS(LOW_INT8)

/* What the epilogue of these rows will touch, on its way while the sums are made. */
TXK_INLINE void fetch_out(const struct tx_gemm_low *job, size_t m, size_t rows, size_t n)
{
    const struct tx_epilogue_f32 *e = &job->epilogue;
    for (size_t i = m; i < m + rows; i++) {
        if (job->out_bf16) {
            prefetch_to_write((const uint16_t *)job->out + i * job->ldo + n);
            continue;
        }
        const float *out = (const float *)job->out + i * job->ldo + n;
        prefetch_to_write(out);
        prefetch_to_write(out + 16);
        if (e->residual && e->residual != job->out) {
            _mm_prefetch((const char *)(e->residual + i * e->ldr + n), _MM_HINT_T0);
            _mm_prefetch((const char *)(e->residual + i * e->ldr + n + 16), _MM_HINT_T0);
        }
    }
}

/* `begin` finds where the sums of some rows of Kb bytes begin; NULL: at zero. */
TXK_INLINE void gemm_low(const struct tx_gemm_low *job, void (*begin)(int32_t *begins, const char *a, size_t lda, size_t rows, size_t Kb))
{
    const size_t size = LOW_INT8 ? 1 : 2, Kb = tx_k_padded(job->K) * size, lda = job->lda * size;
    char c[ROWS * NR * 4] __attribute__((aligned(64)));
    int32_t begins[MOST_ROWS];
    struct low_rows rows = {.job = job, .run = low_rows_of_act[job->epilogue.act]};
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
            const size_t step = 4 * 4 * NR / parts;
            const char *ahead = panel + (n + NR < job->n1 ? Kb * NR : 0);
            for (size_t i = 0; i < parts; i++) {
                const size_t m = m0 + count * i / parts, end = m0 + count * (i + 1) / parts;
                const struct low_tile tile = {.a = (const char *)job->a + m * lda, .lda = lda, .w = panel, .dwords = Kb / 4, .c = c, .begin = begins + (m - m0),
                                             .ahead = ahead + Kb / 16 * step * i, .ahead_step = step};
                fetch_out(job, m, end - m, n);
                low_tiles[end - m](&tile);
                low_rows_start(&rows, c, m, end - m, n);
                low_rows_next(&rows, end - m);
            }
        }
    }
}

#endif
