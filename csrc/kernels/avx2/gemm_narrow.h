/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) in bfloat16 or int8: what gemm_bf16.c, gemm_int8.c, those of avx_vnni and avx512
 * share. Rows of A are placed side by side, widened to float32 or as bytes, once for RUN columns; W of bfloat16 is widened by
 * the tiles, in registers.
 *
 * Order: blocks of rows > runs of RUN columns > sections of K (at most 1 KB of a placed row) > tiles of a few rows, placed in
 * L1 > panels. A section of W for a run is 128 KB packed (256 in int8 above avx2, whose CPUs have an L2 of a megabyte and
 * more): it stays in L2 for all tiles of the block, and while they work on it, the next one is prefetched a little with each.
 * Sums over sections wait in a strip on the stack, 112 KB. The chain of each sum knows about none of this.
 *
 * A file that includes this gives what struct narrow_kind has, a constant of each. One whose tiles have more than TILE_ROWS
 * rows defines NARROW_TILE_ROWS before: its blocks have fewer rows then, so that the stack stays below 128 KB.
 * A's rows and the packed W are zero padded to tx_k_padded(K), so there are no tails in K. */
#ifndef TXK_AVX2_GEMM_NARROW_H
#define TXK_AVX2_GEMM_NARROW_H

#include "epilogue.h"
#include "row.h"
#include "tile.h"

#ifndef NARROW_TILE_ROWS
#define NARROW_TILE_ROWS TILE_ROWS
#endif

enum {
    NARROW_ROWS = NARROW_TILE_ROWS == TILE_ROWS ? 112 : 96, /* of a block */
    RUN = 256,                  /* columns */
    SECTION_BYTES = 1024,       /* of a widened row */
    WIDE_LD = SECTION_BYTES + 64,   /* an odd number of cache lines */
};

struct narrow_tile {
    const char *a;              /* [rows, SECTION_BYTES] widened, WIDE_LD bytes apart */
    const char *w;              /* a panel's section, packed */
    size_t K;                   /* a multiple of 64 */
    void *c;                    /* [rows,panel], RUN apart: float32, or int32 */
    int more;                   /* 1: add to what is in c */
    const char *ahead;          /* prefetched into L2, ahead_step bytes every `step` of K */
    size_t ahead_step;
};

typedef void narrow_tile_function(const struct narrow_tile *);

struct narrow_kind {
    size_t size;                /* of an element, packed */
    size_t section;             /* elements of K */
    size_t step;                /* elements of K that ahead_step goes with */
    size_t rows, panel;         /* of a tile, at most NARROW_TILE_ROWS; its columns, 16 or 32 */
    narrow_tile_function *const *tiles;
    void (*place_a)(char *to, const char *from, size_t K);
    void (*epilogue)(float *out, size_t ldo, const float *acc, size_t ldacc, size_t M, size_t N,
                     const struct tx_epilogue_f32 *epilogue);
    /* The sums of a tile in place: what is missing until they are float32, or NULL. */
    void (*finish_sums)(const struct tx_gemm_narrow *job, void *c, size_t m, size_t rows, size_t n, size_t columns);
};

TXK_INLINE int32_t four_bytes(const char *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
    return four;
}

/* int32 sums of a tile get their scales, in place; before that what the panel's columns begin at, where that is not 0. */
TXK_INLINE void finish_int8_from(const int32_t *begin, const struct tx_gemm_narrow *job, void *c, size_t m, size_t rows,
                                 size_t n, size_t columns)
{
    for (size_t j = 0; j < columns; j += 8) {
        const __m256 w_scale = load_f32x8(job->w_scale + n + j, columns - j);
        const __m256i first = begin ? _mm256_loadu_si256((const __m256i *)(begin + j)) : _mm256_setzero_si256();
        for (size_t i = 0; i < rows; i++) {
            const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(job->a_scale[m + i]), w_scale);
            const __m256i sum = _mm256_add_epi32(first, _mm256_load_si256((const __m256i *)((const int32_t *)c + i * RUN + j)));
            _mm256_store_ps((float *)c + i * RUN + j, _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale));
        }
    }
}

TXK_INLINE void finish_int8(const struct tx_gemm_narrow *job, void *c, size_t m, size_t rows, size_t n, size_t columns)
{
    finish_int8_from(NULL, job, c, m, rows, n, columns);
}

TXK_INLINE void store_tile(const struct tx_gemm_narrow *job, const struct narrow_kind *kind, float *c, size_t m, size_t rows,
                           size_t n, size_t columns)
{
    const struct tx_epilogue_f32 e = epilogue_at(&job->epilogue, m, n);
    if (!job->out_bf16) {
        kind->epilogue((float *)job->out + m * job->ldo + n, job->ldo, c, RUN, rows, columns, &e);
        return;
    }
    kind->epilogue(c, RUN, c, RUN, rows, columns, &e);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j += 8)
            store_bf16x8((uint16_t *)job->out + (m + i) * job->ldo + n + j, columns - j, _mm256_load_ps(c + i * RUN + j));
}

/* Rows m0..m1 against columns n0..n1 (at most NARROW_ROWS and RUN). */
TXK_INLINE void gemm_narrow_block(const struct tx_gemm_narrow *job, const struct narrow_kind *kind, size_t m0, size_t m1,
                                  size_t n0, size_t n1)
{
    char a_wide[NARROW_TILE_ROWS * WIDE_LD] __attribute__((aligned(64)));
    float strip[NARROW_ROWS * RUN] __attribute__((aligned(64)));
    const size_t Kp = tx_k_padded(job->K), size = kind->size, panel = kind->panel, out_size = job->out_bf16 ? 2 : 4;
    const size_t parts = (m1 - m0 + kind->rows - 1) / kind->rows;
    const char *a = job->a, *w = job->w;
    for (size_t k0 = 0; k0 < Kp; k0 += kind->section) {
        const size_t k1 = k0 + kind->section < Kp ? k0 + kind->section : Kp;
        const int last = k1 == Kp;
        /* The section after this one, shared out among the tiles; after the last, the first of the next run. */
        const size_t next = last ? RUN * Kp : k1 * panel;
        for (size_t i = 0; i < parts; i++) {
            const size_t m = m0 + part_begin(m1 - m0, parts, i), rows = m0 + part_begin(m1 - m0, parts, i + 1) - m;
            for (size_t r = 0; r < rows; r++)
                kind->place_a(a_wide + r * WIDE_LD, a + ((m + r) * job->lda + k0) * size, k1 - k0);
            for (size_t n = n0; n < n1; n += panel) {
                const size_t columns = n1 - n < panel ? n1 - n : panel;
                const size_t ahead_step = last && n + RUN >= job->n1 ? 0 : kind->step * panel * size / parts;
                const char *ahead = ahead_step ? w + (n * Kp + next) * size + (k1 - k0) / kind->step * ahead_step * i : w;
                float *c = strip + (m - m0) * RUN + n - n0;
                for (size_t j = 0; last && j < panel; j += 16)
                    prefetch_out((char *)job->out + (m * job->ldo + n + j) * out_size, job->ldo * out_size, &job->epilogue, m,
                                 rows, n + j);
                kind->tiles[rows - 1](&(struct narrow_tile){
                    .a = a_wide, .w = w + (n * Kp + k0 * panel) * size, .K = k1 - k0, .c = c, .more = k0 > 0,
                    .ahead = ahead, .ahead_step = ahead_step});
                if (last) {
                    if (kind->finish_sums)
                        kind->finish_sums(job, c, m, rows, n, columns);
                    store_tile(job, kind, c, m, rows, n, columns);
                }
            }
        }
    }
}

TXK_INLINE void gemm_narrow(const struct tx_gemm_narrow *job, const struct narrow_kind *kind)
{
    const size_t blocks = (job->M + NARROW_ROWS - 1) / NARROW_ROWS;
    for (size_t b = 0; b < blocks; b++)
        for (size_t n = job->n0; n < job->n1; n += RUN) {
            const size_t n1 = n + RUN < job->n1 ? n + RUN : job->n1;
            gemm_narrow_block(job, kind, part_begin(job->M, blocks, b), part_begin(job->M, blocks, b + 1), n, n1);
        }
}

#endif
