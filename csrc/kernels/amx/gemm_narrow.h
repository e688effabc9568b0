/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) on tiles, the body of gemm_bf16.c and gemm_int8.c: the two differ in one
 * instruction.
 *
 * Order: groups of rows (so that their A stays in L2) > panels of 32 columns > blocks of 32 rows > steps of 64 bytes of K.
 *
 *                        panel: 16 lines of 128 bytes a step (avx512/pack_narrow.c)
 *                      +---------+---------+
 *                      |  W 0    |  W 1    |    a line: the 32 columns' next 4 bytes of K
 *                      +---------+---------+
 *   16 rows   |  A 0 | |  sums 0 |  sums 1 |    A is read in place, 64 bytes of each row
 *   16 rows   |  A 1 | |  sums 2 |  sums 3 |    four products of 16 cycles for four loads
 *                      +---------+---------+
 *
 * Beside the products of a block run:
 *   1. the epilogue of the block before, a few rows a step (vectors run at half their rate beside tiles, one a cycle)
 *   2. the stores of sums. Four tiles stored in one go hold up the loads behind them by about 1,000 cycles; so the lower half
 *      of a block runs SKEW steps behind the upper at both ends, and its sums (`rest`) leave in the next block
 *   3. fetches of the panels to come
 *
 * An element's sum is one chain over ascending K, wherever it lies. Bounds: a last block of fewer rows has tiles with fewer
 * rows; no row beyond M is read, nor any column beyond n1 written. */
#ifndef TXK_AMX_GEMM_NARROW_H
#define TXK_AMX_GEMM_NARROW_H

#include "tiles.h"
#include "../avx512/epilogue_narrow.h"
#include "row.h"

enum {
    BLOCK = 32,             /* rows and columns */
    STEP_W = 2 * 16 * 64,   /* bytes of a panel a step, which is 64 bytes of K */
    SKEW = 2,
    A_BYTES = 1280 << 10,   /* of A that should stay in L2 */
    FEW = 4,                /* blocks of rows beside which W hardly rests */
    AHEAD = 128 << 10,      /* bytes of W */
    PAGE = 4096, PAGES = 8, /* fetched side by side */
};

struct amx_job {
    size_t lda;             /* bytes */
    size_t steps;           /* of 64 bytes of K */
    size_t lines;           /* of the next panel to fetch a step, or 0 */
    const char *soon;       /* rows of A to fetch: the next block's, where they come for the first time; or NULL */
    /* Where blocks are few: so many times a line of each of PAGES pages a step, from `at` on while that is before `until`; from
     * `end` on, it goes on at `next`. */
    size_t rounds;
    const char *at, *until, *end, *next;
    struct narrow_rows rows;   /* the epilogue of the block before */
    const char *out;        /* where this block's epilogue will write, rows ldo bytes apart */
    size_t ldo;
    char *rest;             /* that block's place for sums, where its lower half is still to be stored; or NULL */
};

/* One step of the upper or lower half; `both` halves together load W once. */
TXK_INLINE void upper(const char *a, size_t lda, const char *w, const int int8)
{
    amx_load(4, a, lda);
    amx_load(6, w, 128);
    if (int8) amx_dot_int8(0, 4, 6); else amx_dot_bf16(0, 4, 6);
    amx_load(7, w + 64, 128);
    if (int8) amx_dot_int8(1, 4, 7); else amx_dot_bf16(1, 4, 7);
}

TXK_INLINE void lower(const char *a, size_t lda, const char *w, const int int8)
{
    amx_load(5, a, lda);
    amx_load(6, w, 128);
    if (int8) amx_dot_int8(2, 5, 6); else amx_dot_bf16(2, 5, 6);
    amx_load(7, w + 64, 128);
    if (int8) amx_dot_int8(3, 5, 7); else amx_dot_bf16(3, 5, 7);
}

TXK_INLINE void both(const char *a, const char *a2, size_t lda, const char *w, const int int8)
{
    upper(a, lda, w, int8);
    amx_load(5, a2, lda);
    if (int8) amx_dot_int8(2, 5, 6); else amx_dot_bf16(2, 5, 6);
    if (int8) amx_dot_int8(3, 5, 7); else amx_dot_bf16(3, 5, 7);
}

/* From the end of these columns to what is read next, where that is known; else straight on. */
static inline void go_on(struct amx_job *j)
{
    if (j->at >= j->end) {
        j->at = j->next + (j->at - j->end);
        j->until = j->next + (j->until - j->end);
        j->end = (const char *)UINTPTR_MAX;
    }
}

/* W streams as fast as memory gives it only while the hardware's own prefetcher runs ahead. It does so by some 20 lines within
 * a page of 4 KB, too few for the latency of memory: so PAGES pages are fetched side by side, a line of each in turn. */
static inline void fetch(struct amx_job *j)
{
    for (size_t i = 0; i < j->rounds && j->at < j->until; i++) {
        for (size_t p = 0; p < PAGES; p++)
            _mm_prefetch(j->at + PAGE * p, _MM_HINT_T1);
        j->at += 64;
        if ((uintptr_t)j->at % PAGE == 0) {
            j->at += PAGE * (PAGES - 1);
            go_on(j);
        }
    }
}

static inline void store_rest(struct amx_job *j)
{
    if (j->rest) {
        amx_store(2, j->rest + 16 * 128, 128);
        amx_store(3, j->rest + 16 * 128 + 64, 128);
        j->rest = NULL;
    }
}

/* All that is left of the block before. */
static inline void finish(struct amx_job *j)
{
    store_rest(j);
    narrow_rows_next(&j->rows, j->rows.left);
}

/* The sums of a block of more than 16 rows (`wide`) or up to 16; the upper half's are stored to c, the lower half's stay on the
 * tiles. */
TXK_INLINE void amx_block(struct amx_job *j, const char *a, const char *w, const char *ahead, char *c, const int wide,
                          const int int8)
{
    const size_t lda = j->lda, steps = j->steps, skew = wide && steps > 2 * SKEW ? SKEW : 0, lines = j->lines;
    const char *a2 = a + AMX_ROWS * lda;
    amx_zero(0);
    amx_zero(1);
    for (size_t s = 0; s < skew; s++) {
        upper(a + 64 * s, lda, w + STEP_W * s, int8);
        fetch(j);
    }
    store_rest(j);
    if (wide) {
        amx_zero(2);
        amx_zero(3);
    }
    for (size_t s = 0; s < skew; s++)
        lower(a2 + 64 * s, lda, w + STEP_W * s, int8);
    const size_t share = (j->rows.left + steps - 1) / steps, places = (BLOCK + steps - 1) / steps;
    const char *out = j->out;
    for (size_t s = skew; s < steps - skew; s++) {
        if (wide)
            both(a + 64 * s, a2 + 64 * s, lda, w + STEP_W * s, int8);
        else
            upper(a + 64 * s, lda, w + STEP_W * s, int8);
        fetch(j);
        for (size_t r = 0; j->soon && r < BLOCK; r++)
            _mm_prefetch(j->soon + r * lda + 64 * s, _MM_HINT_T1);
        for (size_t i = 0; i < lines; i++)
            _mm_prefetch(ahead + 64 * (s * lines + i), _MM_HINT_T1);
        for (size_t i = 0; i < places; i++, out += j->ldo) {
            prefetch_to_write(out);
            prefetch_to_write(out + 64);
        }
        narrow_rows_next(&j->rows, share);
    }
    for (size_t s = steps - skew; s < steps; s++) {
        upper(a + 64 * s, lda, w + STEP_W * s, int8);
        fetch(j);
    }
    amx_store(0, c, 128);
    amx_store(1, c + 64, 128);
    for (size_t s = steps - skew; s < steps; s++)
        lower(a2 + 64 * s, lda, w + STEP_W * s, int8);
    narrow_rows_next(&j->rows, j->rows.left);
}

/* The tiles of a block of up to 32 rows; 0 to 3: sums, 4 and 5: A, 6 and 7: W. */
static inline void amx_shape_for(struct amx_shape *s, size_t rows)
{
    *s = (struct amx_shape)AMX_WHOLE;
    const size_t high = rows < AMX_ROWS ? rows : AMX_ROWS, low = rows > AMX_ROWS ? rows - AMX_ROWS : AMX_ROWS;
    s->rows[0] = s->rows[1] = s->rows[4] = (uint8_t)high;
    s->rows[2] = s->rows[3] = s->rows[5] = (uint8_t)low;
}

TXK_INLINE void gemm_narrow(const struct tx_gemm_narrow *job, void (*rows_of_act)(struct narrow_rows *, size_t),
                             const int int8)
{
    const size_t size = int8 ? 1 : 2, out_size = job->out_bf16 ? 2 : 4, Kb = tx_k_padded(job->K) * size,
                 panel_bytes = Kb * BLOCK, tail = job->M % BLOCK;
    struct amx_shape whole, part;
    amx_shape_for(&whole, job->M < BLOCK ? job->M : BLOCK);
    amx_shape_for(&part, tail);
    const int reshape = job->M > BLOCK && tail % AMX_ROWS != 0;
    char sums[2][BLOCK * BLOCK * 4] __attribute__((aligned(64)));
    struct amx_job j = {
        .lda = job->lda * size, .steps = Kb / 64, .ldo = job->ldo * out_size, .rows = {.job = job, .run = rows_of_act}};

    const size_t blocks = (job->M + BLOCK - 1) / BLOCK;
    size_t groups = (job->M * Kb + A_BYTES - 1) / A_BYTES, turn = 0;
    groups = groups < blocks ? groups : blocks;
    amx_config(&whole);
    for (size_t group = 0; group < groups; group++) {
        const size_t b0 = blocks * group / groups, b1 = blocks * (group + 1) / groups;
        /* What is fetched: the next panel, which has BLOCK lines a step of this one, spread over the blocks; or with few
         * blocks, which leave W no rest, AHEAD of it, and in the end the beginning of what is read next. */
        const int few = b1 - b0 <= FEW;
        const size_t spread = (BLOCK + b1 - b0 - 1) / (b1 - b0);
        const char *first = (const char *)job->w + job->n0 / BLOCK * panel_bytes;
        j.lines = few ? 0 : spread;
        j.rounds = few ? (spread + PAGES - 1) / PAGES : 0;
        j.next = b1 < blocks ? first : job->fetch.next;
        j.end = j.next ? (const char *)job->w + (job->n1 + BLOCK - 1) / BLOCK * panel_bytes : (const char *)UINTPTR_MAX;
        j.at = j.until = (const char *)((uintptr_t)first / PAGE * PAGE + AHEAD);
        go_on(&j);
        for (size_t n = job->n0; n < job->n1; n += BLOCK) {
            const char *panel = (const char *)job->w + n / BLOCK * panel_bytes;
            const char *ahead = panel + (n + BLOCK < job->n1 ? panel_bytes : 0);
            j.until += panel_bytes;
            for (size_t b = b0; b < b1; b++, turn ^= 1) {
                const size_t m = b * BLOCK, rows = job->M - m < BLOCK ? job->M - m : BLOCK;
                const char *a = (const char *)job->a + m * j.lda;
                const int odd = reshape && rows < BLOCK;
                j.soon = few && n == job->n0 && job->M >= m + 2 * BLOCK ? a + BLOCK * j.lda : NULL;
                j.out = (const char *)job->out + m * j.ldo + n * out_size;
                if (odd) {
                    finish(&j);
                    amx_config(&part);
                }
                if (rows > AMX_ROWS)
                    amx_block(&j, a, panel, ahead, sums[turn], 1, int8);
                else
                    amx_block(&j, a, panel, ahead, sums[turn], 0, int8);
                ahead += 64 * j.lines * j.steps;
                j.rest = rows > AMX_ROWS ? sums[turn] : NULL;
                narrow_rows_start(&j.rows, sums[turn], m, rows, n);
                if (odd) {
                    store_rest(&j);
                    amx_config(&whole);
                }
            }
        }
        finish(&j);
    }
    amx_done();
}

#endif
