/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) with vectors, the body of avx512_bf16/gemm_bf16.c and avx512_vnni/gemm_int8.c.
 * Before they include this they define NARROW_DOT(sum, a, w), which adds the products of a dword of A, in every lane of `a`,
 * with 16 columns of W, and NARROW_INT8.
 *
 * The packed layout is that of pack_narrow.c: a line of 128 bytes holds the 32 columns' next 4 bytes of K, so one broadcast
 * dword of A meets two vectors of W. 12 rows at a time: 24 sums, two vectors of W and a broadcast. An element's sum is one
 * chain over ascending K. A tile's sums go to memory, and their epilogue runs beside the next tile's products
 * (epilogue_pipelined.h) or, for what that does not do, at once. */
#ifndef TXK_AVX512_GEMM_NARROW_H
#define TXK_AVX512_GEMM_NARROW_H

#include "fetch.h"
#include "epilogue_pipelined.h"
#include "row.h"

enum {
    ROWS = 12, NR = 32,
    MOST_ROWS = 1200,       /* of a block; a multiple of ROWS */
    A_BYTES = 768 << 10,    /* of a block, beside which the panels go by: of an L2 of 1 MB, or 2 MB that two threads share */
};

struct narrow_tile {
    const char *a;
    size_t lda;             /* bytes */
    const char *w;
    size_t dwords;          /* of K: a multiple of 16 */
    char *c;                /* [rows, 32], 64-byte aligned */
    const int32_t *begin;   /* [rows] where int8 sums begin */
    struct fetch ahead;     /* so many lines every 4 dwords of K */
    char *out;              /* where its epilogue will write */
    struct narrow_rows *before; /* the epilogue of the tile before this */
};

/* The sums of row i with dword k (both literals). As in tile.h, rows 3g, 3g+1 and 3g+2 lie 0, 1 and 2 lda past base[g], and the
 * broadcast is in assembly: gcc 12 makes up an address register for each row and keeps two of twelve in vector registers, whose
 * way back takes the multipliers' ports (a tenth of the rate). The sanitizers see the plain version. */
#define NARROW_ROW(i, k)                \
    if (rows > i) {                     \
        __m512i x;                      \
        NARROW_BROADCAST(i, k)          \
        NARROW_DOT(acc[i][0], x, left)  \
        NARROW_DOT(acc[i][1], x, right) \
    }
#if defined(__SANITIZE_ADDRESS__)
#define NARROW_BROADCAST(i, k) x = _mm512_set1_epi32(((const int32_t *)(base[i / 3] + i % 3 * lda))[k]);
#else
#define NARROW_BROADCAST(i, k)                                                                 \
    if (i % 3 == 0) NARROW_BROADCAST_AT(i, #k "*4(%[base])")                                   \
    if (i % 3 == 1) NARROW_BROADCAST_AT(i, #k "*4(%[base],%[lda])")                            \
    if (i % 3 == 2) NARROW_BROADCAST_AT(i, #k "*4(%[base],%[lda],2)")
#define NARROW_BROADCAST_AT(i, address)      \
    __asm__("vpbroadcastd " address ", %[x]" \
            : [x] "=v"(x)                    \
            : [base] "r"(base[i / 3]), [lda] "r"(lda), "m"(*(const char(*)[1 << 16])base[i / 3]));
#endif
#define NARROW_K(k)                                                                                             \
    {                                                                                                           \
        const __m512i left = _mm512_load_si512(w + 4 * NR * k), right = _mm512_load_si512(w + 4 * NR * k + 64); \
        NARROW_ROW(0, k) NARROW_ROW(1, k) NARROW_ROW(2, k) NARROW_ROW(3, k) NARROW_ROW(4, k) NARROW_ROW(5, k)   \
        NARROW_ROW(6, k) NARROW_ROW(7, k) NARROW_ROW(8, k) NARROW_ROW(9, k) NARROW_ROW(10, k) NARROW_ROW(11, k) \
    }

/* Four dwords of K, and where `beside` a vector of the epilogue before. */
#define NARROW_STEP(beside)                                                                                         \
    {                                                                                                               \
        fetch_step(&ahead);                                                                                         \
        NARROW_K_BESIDE(0, beside) NARROW_K_BESIDE(1, beside) NARROW_K_BESIDE(2, beside) NARROW_K_BESIDE(3, beside) \
        w += 4 * 4 * NR;                                                                                            \
        for (int g = 0; g < (rows + 2) / 3; g++)                                                                    \
            base[g] += 4 * 4;                                                                                       \
    }
#define NARROW_K_BESIDE(k, beside) \
    NARROW_K(k)                    \
    if (beside)                    \
        pipelined_run(&vector, k, act, NARROW_INT8);

/* `act`: of the epilogue before, or -1: leave that alone. */
TXK_INLINE void narrow_tile(const struct narrow_tile *t, const int rows, const int act)
{
    __m512i acc[ROWS][2];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
        acc[i][0] = acc[i][1] = NARROW_INT8 ? _mm512_set1_epi32(t->begin[i]) : _mm512_setzero_si512();
    const size_t lda = t->lda;
    const char *w = t->w, *base[4];
    struct fetch ahead = t->ahead;
#pragma GCC unroll 4
    for (int g = 0; g < (rows + 2) / 3; g++)
        base[g] = t->a + (size_t)(3 * g) * lda;
    size_t steps = t->dwords / 4;
    struct pipelined_vector vector;
    if (act >= 0) {
        struct narrow_rows *before = t->before;
        const size_t count = 2 * before->left < steps ? before->left : steps / 2;
        pipelined_start(&vector, before, t->out, NARROW_INT8);
        for (size_t i = 2 * count; i > 0; i--)
            NARROW_STEP(1)
        steps -= 2 * count;
        before->c = vector.c;
        before->m += count;
        before->left -= count;
    }
    for (; steps > 0; steps--)
        NARROW_STEP(0)
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        _mm512_store_si512(t->c + i * 4 * NR, acc[i][0]);
        _mm512_store_si512(t->c + i * 4 * NR + 64, acc[i][1]);
    }
}

typedef void narrow_tile_function(const struct narrow_tile *t);
#define NARROW_TILE(rows) static void narrow_tile_##rows(const struct narrow_tile *t) { narrow_tile(t, rows, -1); }
NARROW_TILE(1) NARROW_TILE(2) NARROW_TILE(3) NARROW_TILE(4) NARROW_TILE(5) NARROW_TILE(6)
NARROW_TILE(7) NARROW_TILE(8) NARROW_TILE(9) NARROW_TILE(10) NARROW_TILE(11) NARROW_TILE(12)
static narrow_tile_function *const narrow_tiles[ROWS + 1] = {
    NULL, narrow_tile_1, narrow_tile_2, narrow_tile_3, narrow_tile_4, narrow_tile_5, narrow_tile_6,
    narrow_tile_7, narrow_tile_8, narrow_tile_9, narrow_tile_10, narrow_tile_11, narrow_tile_12,
};

/* With an epilogue beside: whole tiles, and what the rows of models leave over. */
#define NARROW_TILE_BESIDE(rows)                                                                                      \
    static void narrow_tile_##rows##_none_act(const struct narrow_tile *t) { narrow_tile(t, rows, TX_ACT_NONE); }     \
    static void narrow_tile_##rows##_gelu_erf(const struct narrow_tile *t) { narrow_tile(t, rows, TX_ACT_GELU_ERF); } \
    static void narrow_tile_##rows##_gelu_tanh(const struct narrow_tile *t) { narrow_tile(t, rows, TX_ACT_GELU_TANH); }
NARROW_TILE_BESIDE(4) NARROW_TILE_BESIDE(8) NARROW_TILE_BESIDE(12)
static narrow_tile_function *const narrow_tiles_pipelined[TX_ACT_COUNT][ROWS / 4] = {
    [TX_ACT_NONE] = {narrow_tile_4_none_act, narrow_tile_8_none_act, narrow_tile_12_none_act},
    [TX_ACT_GELU_ERF] = {narrow_tile_4_gelu_erf, narrow_tile_8_gelu_erf, narrow_tile_12_gelu_erf},
    [TX_ACT_GELU_TANH] = {narrow_tile_4_gelu_tanh, narrow_tile_8_gelu_tanh, narrow_tile_12_gelu_tanh},
};

NARROW_ROWS_FUNCTIONS(NARROW_INT8)

/* What the epilogue of these rows will touch, on its way while the sums are made. Beside an epilogue pipelined_run does it a
 * line at a time: in one go the lines take all the places for misses. */
TXK_INLINE void fetch_out(const struct tx_gemm_narrow *job, size_t m, size_t rows, size_t n)
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

/* The sums of up to FEW rows and two panels, the second `panel_bytes` behind the first: with one, too few chains are under way
 * to keep up with weights that lie in L2 (two rows in bfloat16 on a Zen 5: 67 GB/s with one, 102 with two). */
enum { FEW = 4 };
TXK_INLINE void narrow_few(const struct narrow_tile *t, size_t panel_bytes, char *second, const int rows)
{
    __m512i acc[FEW][4];
    const char *a[FEW], *w = t->w;
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        a[i] = t->a + i * t->lda;
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            acc[i][j] = NARROW_INT8 ? _mm512_set1_epi32(t->begin[i]) : _mm512_setzero_si512();
    }
    for (size_t k = 0; k < t->dwords; k++, w += 4 * NR) {
        const __m512i w0 = _mm512_load_si512(w), w1 = _mm512_load_si512(w + 64);
        const __m512i w2 = _mm512_load_si512(w + panel_bytes), w3 = _mm512_load_si512(w + panel_bytes + 64);
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++) {
            const __m512i x = _mm512_set1_epi32(((const int32_t *)a[i])[k]);
            NARROW_DOT(acc[i][0], x, w0)
            NARROW_DOT(acc[i][1], x, w1)
            NARROW_DOT(acc[i][2], x, w2)
            NARROW_DOT(acc[i][3], x, w3)
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        _mm512_store_si512(t->c + i * 4 * NR, acc[i][0]);
        _mm512_store_si512(t->c + i * 4 * NR + 64, acc[i][1]);
        _mm512_store_si512(second + i * 4 * NR, acc[i][2]);
        _mm512_store_si512(second + i * 4 * NR + 64, acc[i][3]);
    }
}

#define NARROW_FEW(rows)                                                                   \
    static void narrow_few_##rows(const struct narrow_tile *t, size_t bytes, char *second) \
    {                                                                                      \
        narrow_few(t, bytes, second, rows);                                                \
    }
NARROW_FEW(1) NARROW_FEW(2) NARROW_FEW(3) NARROW_FEW(4)
static void (*const narrow_fews[FEW + 1])(const struct narrow_tile *t, size_t panel_bytes, char *second) = {
    NULL, narrow_few_1, narrow_few_2, narrow_few_3, narrow_few_4};

/* `begin` finds where the sums of some rows of Kb bytes begin; NULL: at zero. */
TXK_INLINE void gemm_narrow(const struct tx_gemm_narrow *job,
                         void (*begin)(int32_t *begins, const char *a, size_t lda, size_t rows, size_t Kb))
{
    const size_t size = NARROW_INT8 ? 1 : 2, out_size = job->out_bf16 ? 2 : 4, Kb = tx_k_padded(job->K) * size,
                 lda = job->lda * size;
    const char *first = (const char *)job->w + job->n0 * Kb;
    char c[2][ROWS * NR * 4] __attribute__((aligned(64)));
    int32_t begins[MOST_ROWS];
    const int act = job->epilogue.act;
    struct narrow_rows before = {.job = job, .run = narrow_rows_of_act[act]};
    /* Blocks as even as whole tiles allow, since each reads all of W. */
    size_t most = A_BYTES / Kb / ROWS * ROWS, turn = 0;
    most = most < ROWS ? ROWS : most > MOST_ROWS ? MOST_ROWS : most;
    if (!job->M)
        return;
    const size_t blocks = (job->M + most - 1) / most, block = ((job->M + blocks - 1) / blocks + ROWS - 1) / ROWS * ROWS;
    const size_t steps = Kb / 16, panels = (job->n1 - job->n0 + NR - 1) / NR;
    struct fetch_beside beside = {0};
    for (size_t m0 = 0; m0 < job->M; m0 += block) {
        const size_t end = job->M - m0 < block ? job->M : m0 + block, parts = (end - m0 + ROWS - 1) / ROWS;
        if (begin)
            begin(begins, (const char *)job->a + m0 * lda, lda, end - m0, Kb);
        const size_t for_w = fetch_tiles(&job->fetch, parts);
        if (m0 == 0)
            beside = fetch_beside(&job->fetch, panels * (parts - for_w), steps);
        size_t n = job->n0;
        for (; job->M <= FEW && n + NR < job->n1; n += 2 * NR) {
            const char *panel = first + (n - job->n0) * Kb;
            narrow_fews[job->M](
                &(struct narrow_tile){.a = job->a, .lda = lda, .w = panel, .dwords = Kb / 4, .c = c[0], .begin = begins},
                Kb * NR, c[1]);
            for (size_t half = 0; half < 2; half++) {
                narrow_rows_start(&before, c[half], 0, job->M, n + half * NR);
                narrow_rows_next(&before, before.left);
            }
        }
        for (; n < job->n1; n += NR) {
            const char *panel = first + (n - job->n0) * Kb;
            /* The panel that comes next, shared out among the tiles. A single tile is as fast as memory, and the hardware
             * fetches more than prefetches may have under way at a time (20 GB/s against 33 on a Zen 4). */
            const char *ahead = n + NR < job->n1 ? panel + Kb * NR : end < job->M ? first : job->fetch.next;
            const size_t lines = parts > 1 && ahead ? 4 * 4 * NR / 64 : 0;
            size_t part = 0;
            for (size_t m = m0, rows; m < end; m += rows, part++, turn ^= 1) {
                /* 16 as twice 8: beside 4 rows an epilogue of 12 takes as long as the products. */
                rows = end - m <= ROWS ? end - m : end - m <= 16 ? 8 : ROWS;
                const struct narrow_tile tile = {.a = (const char *)job->a + m * lda, .lda = lda, .w = panel, .dwords = Kb / 4,
                                                 .c = c[turn], .begin = begins + (m - m0),
                                                 .ahead = part < for_w ? fetch_part(ahead, lines, for_w, part, steps)
                                                                       : fetch_beside_next(&beside, steps),
                                                 .before = &before, .out = (char *)job->out + (m * job->ldo + n) * out_size};
                narrow_tile_function *const with_pipelined = rows % 4 == 0 ? narrow_tiles_pipelined[act][rows / 4 - 1] : NULL;
                if (before.left && with_pipelined) {
                    with_pipelined(&tile);
                    narrow_rows_next(&before, before.left);
                } else {
                    narrow_rows_next(&before, before.left);
                    fetch_out(job, m, rows, n);
                    narrow_tiles[rows](&tile);
                }
                narrow_rows_start(&before, c[turn], m, rows, n);
                if (job->n1 - n < NR)
                    narrow_rows_next(&before, before.left);
            }
        }
    }
    narrow_rows_next(&before, before.left);
}

#endif
