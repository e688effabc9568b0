/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) in bfloat16 or int8: what gemm_bf16_avx2.c and gemm_int8_avx2.c share. AVX2 multiplies
 * neither, so both are widened, to float32 or int16, once for many uses, and the tiles run on that.
 *
 * Order: blocks of rows > runs of RUN columns > sections of K (1 KB of a widened row) > panels > tiles of at most 6 rows. A section of the
 * block's rows is widened for a run of columns, a section of a panel for all rows of the block; together that is some 4% of the work of
 * the tiles. Sums over sections wait in a strip. All three lie on the stack, 190 KB together: A and the strip in L2, W in L1. While the
 * tiles work on one section of a panel, the next one is prefetched a little with each.
 *
 * A file that includes this gives: widen_a, widen_w, the tiles, finish_sums. `int8` is a constant of each.
 * A's rows and the packed W are zero padded to tx_k_padded(K), so there are no tails in K. */
#ifndef TXK_GEMM_LOW_AVX2_H
#define TXK_GEMM_LOW_AVX2_H

#include "epilogue_avx2.h"
#include "kernels_avx2.h"
#include "tile_avx2.h"

enum {
    LOW_ROWS = 112,             /* of a block */
    RUN = 128,                  /* columns */
    SECTION_BYTES = 1024,       /* of a widened row */
    WIDE_LD = SECTION_BYTES + 64,   /* an odd number of cache lines */
};

/* Rows of A and a panel of W, widened; what the tiles get. */
struct low_tile {
    const char *a;              /* [rows, SECTION_BYTES], WIDE_LD bytes apart */
    const char *w;              /* [k,16] float32, or [k/2,16,2] int16 */
    size_t K;                   /* a multiple of 64 */
    void *c;                    /* [rows,16], RUN apart: float32, or int32 */
    int more;
    const char *ahead;
    size_t ahead_step;          /* bytes of packed W every 4 k (bfloat16) or 8 k (int8) */
};

typedef void low_tile_function(const struct low_tile *);

struct low_kind {
    size_t size;                /* of an element, packed */
    size_t section;             /* elements of K */
    size_t step;                /* elements of K that ahead_step goes with */
    low_tile_function *const *tiles;
    void (*widen_a)(char *to, const char *from, size_t K);
    void (*widen_w)(char *to, const char *from, size_t K);
    /* The sums of a tile in place: what is missing until they are float32. */
    void (*finish_sums)(const struct tx_gemm_low *job, void *c, size_t m, size_t rows, size_t n, size_t columns);
};

static void store_tile(const struct tx_gemm_low *job, float *c, size_t m, size_t rows, size_t n, size_t columns)
{
    const struct tx_epilogue_f32 e = epilogue_at(&job->epilogue, m, n);
    if (!job->out_bf16) {
        txk_epilogue_f32_avx2((float *)job->out + m * job->ldo + n, job->ldo, c, RUN, rows, columns, &e);
        return;
    }
    txk_epilogue_f32_avx2(c, RUN, c, RUN, rows, columns, &e);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j += 8)
            store_bf16x8((uint16_t *)job->out + (m + i) * job->ldo + n + j, columns - j, _mm256_load_ps(c + i * RUN + j));
}

/* Rows m0..m1 against columns n0..n1 (at most LOW_ROWS and RUN). */
TXK_INLINE void gemm_low_block(const struct tx_gemm_low *job, const struct low_kind *kind, size_t m0, size_t m1, size_t n0, size_t n1)
{
    char a_wide[LOW_ROWS * WIDE_LD] __attribute__((aligned(64)));
    char w_wide[SECTION_BYTES * PANEL] __attribute__((aligned(64)));
    float strip[LOW_ROWS * RUN] __attribute__((aligned(64)));
    const size_t Kp = tx_k_padded(job->K), parts = (m1 - m0 + TILE_ROWS - 1) / TILE_ROWS;
    const char *a = job->a, *w = job->w;
    for (size_t k0 = 0; k0 < Kp; k0 += kind->section) {
        const size_t k1 = k0 + kind->section < Kp ? k0 + kind->section : Kp;
        for (size_t m = m0; m < m1; m++)
            kind->widen_a(a_wide + (m - m0) * WIDE_LD, a + (m * job->lda + k0) * kind->size, k1 - k0);
        for (size_t n = n0; n < n1; n += PANEL) {
            const size_t columns = n1 - n < PANEL ? n1 - n : PANEL;
            kind->widen_w(w_wide, w + (n * Kp + k0 * PANEL) * kind->size, k1 - k0);
            /* The next section in the order of this loop; at its end, the first of the next run. */
            const size_t next_n = n + PANEL < n1 ? n : k1 < Kp ? n0 - PANEL : n, next_k = n + PANEL < n1 ? k0 : k1 < Kp ? k1 : 0;
            const int last = n + PANEL >= job->n1 && k1 == Kp;
            const size_t ahead_step = last ? 0 : kind->step * PANEL * kind->size / parts;
            const char *ahead = last ? w : w + ((next_n + PANEL) * Kp + next_k * PANEL) * kind->size;
            for (size_t i = 0; i < parts; i++) {
                const size_t m = part_begin(m1 - m0, parts, i), rows = part_begin(m1 - m0, parts, i + 1) - m;
                float *c = strip + m * RUN + n - n0;
                kind->tiles[rows - 1](&(struct low_tile){
                    .a = a_wide + m * WIDE_LD, .w = w_wide, .K = k1 - k0, .c = c, .more = k0 > 0,
                    .ahead = ahead + (k1 - k0) / kind->step * ahead_step * i, .ahead_step = ahead_step});
                if (k1 == Kp) {
                    kind->finish_sums(job, c, m0 + m, rows, n, columns);
                    store_tile(job, c, m0 + m, rows, n, columns);
                }
            }
        }
    }
}

TXK_INLINE void gemm_low(const struct tx_gemm_low *job, const struct low_kind *kind)
{
    const size_t blocks = (job->M + LOW_ROWS - 1) / LOW_ROWS;
    for (size_t b = 0; b < blocks; b++)
        for (size_t n = job->n0; n < job->n1; n += RUN)
            gemm_low_block(job, kind, part_begin(job->M, blocks, b), part_begin(job->M, blocks, b + 1), n, n + RUN < job->n1 ? n + RUN : job->n1);
}

#endif
