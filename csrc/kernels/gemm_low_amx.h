/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) on tiles, the body of gemm_bf16_amx.c and gemm_int8_amx.c: the two differ in one instruction.
 *
 * A is read in place. Packed W (pack_low_avx512.c): panels of 32 columns; a line of 128 bytes holds the 32 columns' next 4 bytes of K, so 16
 * lines are two tiles. In a block of 32 x 32, two tiles of A meet two of W in four tiles of sums: four products of 16 cycles for four loads.
 *
 * L2 alone cannot feed that rate; L1 has to hold one side. So K is cut into runs of RUN bytes: the run of a panel (16 KB) stays in L1 while
 * all rows' runs go by, and sums wait in memory between runs. Rows come in blocks that stay in L2 while the panels go by; the next
 * panel is fetched meanwhile. An element's sum is one chain over ascending K, wherever it lies.
 *
 * The epilogue of a block (a GELU costs half as much as the products) runs between the products of the next one, a few rows a step:
 * tiles and vectors are different ports.
 * Bounds: M tails are tiles with fewer rows; no row beyond M is read, nor any column beyond n1 written. */
#ifndef TXK_GEMM_LOW_AMX_H
#define TXK_GEMM_LOW_AMX_H

#include "amx.h"
#include "epilogue_low_avx512.h"
#include "kernels_low_avx512.h"

enum {
    BLOCK = 32,             /* rows and columns of a block */
    RUN = 512,              /* bytes of K */
    MAX_BLOCKS = 32,        /* blocks of rows whose sums wait at a time: 128 KB */
    A_BYTES = 1 << 20,      /* of A that should stay in L2 */
};

/* A block on the tiles while the epilogue of the one before it is worked off. */
struct amx_block {
    const char *a;
    size_t lda;             /* bytes */
    const char *w;
    size_t steps;           /* of 64 bytes of K */
    int more;               /* 1: the sums go on from c */
    float *c;               /* [32,32] */
    const char *ahead;      /* W to fetch into L2: */
    size_t lines;           /* so many lines a step */
    struct low_rows *waiting;
    size_t rows_a_step;
};

TXK_INLINE void amx_block(const struct amx_block *b, const int wide, const int int8)
{
    const char *a = b->a, *a2 = b->a + AMX_ROWS * b->lda, *w = b->w, *ahead = b->ahead;
    const size_t lda = b->lda, ldc = BLOCK * sizeof(float);
    char *c = (char *)b->c, *c2 = c + AMX_ROWS * ldc;
    if (b->more) {
        amx_load(0, c, ldc);
        amx_load(1, c + AMX_BYTES, ldc);
        if (wide) {
            amx_load(2, c2, ldc);
            amx_load(3, c2 + AMX_BYTES, ldc);
        }
    } else {
        amx_zero(0);
        amx_zero(1);
        if (wide) {
            amx_zero(2);
            amx_zero(3);
        }
    }
    struct low_rows *waiting = b->waiting;
    const size_t lines = b->lines, rows_a_step = b->rows_a_step;
    for (size_t step = b->steps; step > 0; step--) {
        amx_load(6, w, 2 * AMX_BYTES);
        amx_load(4, a, lda);
        if (int8) amx_dot_int8(0, 4, 6); else amx_dot_bf16(0, 4, 6);
        amx_load(7, w + AMX_BYTES, 2 * AMX_BYTES);
        if (int8) amx_dot_int8(1, 4, 7); else amx_dot_bf16(1, 4, 7);
        if (wide) {
            amx_load(5, a2, lda);
            if (int8) amx_dot_int8(2, 5, 6); else amx_dot_bf16(2, 5, 6);
            if (int8) amx_dot_int8(3, 5, 7); else amx_dot_bf16(3, 5, 7);
        }
        for (size_t i = 0; i < lines; i++)
            _mm_prefetch(ahead + AMX_BYTES * i, _MM_HINT_T1);
        ahead += AMX_BYTES * lines;
        low_rows_next(waiting, rows_a_step);
        a += AMX_BYTES;
        a2 += AMX_BYTES;
        w += 2 * AMX_BYTES * AMX_ROWS;
    }
    amx_store(0, c, ldc);
    amx_store(1, c + AMX_BYTES, ldc);
    if (wide) {
        amx_store(2, c2, ldc);
        amx_store(3, c2 + AMX_BYTES, ldc);
    }
}

/* The tiles of a block of up to 32 rows; 0 to 3: sums, 4 and 5: A, 6 and 7: W. */
static inline void amx_shape_for(struct amx_shape *s, size_t rows)
{
    *s = (struct amx_shape){.palette = 1};
    const size_t upper = rows < AMX_ROWS ? rows : AMX_ROWS, lower = rows > AMX_ROWS ? rows - AMX_ROWS : AMX_ROWS;
    for (int t = 0; t < 8; t++) {
        s->row_bytes[t] = AMX_BYTES;
        s->rows[t] = (uint8_t)(t >= 6 ? AMX_ROWS : t == 4 || t < 2 ? upper : lower);
    }
}

TXK_INLINE void gemm_low_amx(const struct tx_gemm_low *job, void (*rows_of_act)(struct low_rows *, size_t), const int int8)
{
    const size_t Kb = tx_k_padded(job->K) * (int8 ? 1 : 2), lda = job->lda * (int8 ? 1 : 2), panel_bytes = Kb * BLOCK;
    struct amx_shape whole, part;
    amx_shape_for(&whole, BLOCK);
    amx_shape_for(&part, job->M % BLOCK);
    float c[MAX_BLOCKS * BLOCK * BLOCK] __attribute__((aligned(64)));
    struct low_rows waiting = {.job = job, .run = rows_of_act};

    size_t at_once = A_BYTES / (Kb * BLOCK);
    at_once = at_once < 1 ? 1 : at_once > MAX_BLOCKS ? MAX_BLOCKS : at_once;
    const size_t blocks = (job->M + BLOCK - 1) / BLOCK, groups = (blocks + at_once - 1) / at_once;
    amx_config(&whole);
    for (size_t group = 0; group < groups; group++) {
        const size_t b0 = blocks * group / groups, b1 = blocks * (group + 1) / groups;
        const size_t lines = (BLOCK + b1 - b0 - 1) / (b1 - b0); /* of the next panel: it has BLOCK a step of this one */
        for (size_t n = job->n0; n < job->n1; n += BLOCK) {
            const char *panel = (const char *)job->w + n / BLOCK * panel_bytes;
            const char *ahead = panel + (n + BLOCK < job->n1 ? panel_bytes : 0);
            /* A lone block takes turns between two places, since its epilogue waits while the next panel's sums are made. */
            float *sums = c + (b1 - b0 == 1 ? n / BLOCK % 2 * BLOCK * BLOCK : 0);
            for (size_t k = 0; k < Kb; k += RUN) {
                const size_t run = Kb - k < RUN ? Kb - k : RUN;
                for (size_t b = b0; b < b1; b++) {
                    const size_t m = b * BLOCK, rows = job->M - m < BLOCK ? job->M - m : BLOCK;
                    struct amx_block block = {
                        .a = (const char *)job->a + m * lda + k, .lda = lda, .w = panel + k * BLOCK, .steps = run / AMX_BYTES, .more = k > 0,
                        .c = sums + (b - b0) * BLOCK * BLOCK, .ahead = ahead, .lines = lines, .waiting = &waiting,
                    };
                    block.rows_a_step = (waiting.left + block.steps - 1) / block.steps;
                    ahead += lines * block.steps * AMX_BYTES;
                    if (rows < BLOCK)
                        amx_config(&part);
                    if (rows > AMX_ROWS)
                        amx_block(&block, 1, int8);
                    else
                        amx_block(&block, 0, int8);
                    if (rows < BLOCK)
                        amx_config(&whole);
                    if (k + run == Kb)
                        low_rows_start(&waiting, block.c, m, rows, n);
                }
            }
        }
        low_rows_next(&waiting, waiting.left);
    }
    amx_done();
}

#endif
