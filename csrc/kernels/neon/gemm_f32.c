/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) in float32.
 *
 * Packed W: panels of 16 columns, [N/16][K][16], the last one padded with zeros; A is read in place.
 *
 * Order: blocks of rows (so that their part of A stays in L2) > panels > sections of K (so that a section of W stays in L1) >
 * tiles of at most 6 rows. Sums over sections wait in a strip of C on the stack, and the epilogue runs on a tile when its sums
 * are whole. The chain of each sum does not know about any of this (tile.h). W arrives by the processor's own prefetching: it
 * is read from front to back. */
#include "row.h"
#include "epilogue.h"
#include "tile.h"

enum {
    MAX_ROWS = 240,             /* of a block */
    MIN_ROWS = 72,              /* W is read from memory once for so many rows, however large K is */
    A_FLOATS = 128 * 1024,      /* of a block of A: 512 KB, half of the usual L2 */
    SECTION = 384,              /* 24 KB of W */
};

size_t txk_gemm_f32_packed_neon(size_t N, size_t K)
{
    return (N + PANEL - 1) / PANEL * PANEL * K;
}

void txk_gemm_f32_pack_neon(float *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    for (size_t n = n0; n < n1; n += PANEL)
        for (size_t k = 0; k < K; k += 4)
            for (size_t j = 0; j < PANEL; j += 4) {
                float32x4_t r[4];
                for (size_t i = 0; i < 4; i++)
                    r[i] = n + j + i < n1 ? load_f32x4(w + (n + j + i) * K + k, K - k) : vdupq_n_f32(0);
                transpose_f32x4(r);
                for (size_t i = 0; i < 4 && k + i < K; i++)
                    vst1q_f32(dst + n * K + (k + i) * PANEL + j, r[i]);
            }
}

void txk_gemm_f32_unpack_neon(float *w, const float *packed, size_t N, size_t K)
{
    for (size_t n = 0; n < N; n++) {
        const float *from = packed + n / PANEL * PANEL * K + n % PANEL;
        for (size_t k = 0; k < K; k++)
            w[n * K + k] = from[k * PANEL];
    }
}

#define TILE(MR) static void tile_##MR(const struct tile_f32 *t) { tile_f32(t, MR, 4); }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
static void (*const tiles[TILE_ROWS])(const struct tile_f32 *) = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6};

/* Rows m0..m1 against the panel at column n. */
static void panel(const struct tx_gemm_f32 *job, size_t m0, size_t m1, size_t n)
{
    float strip[MAX_ROWS * PANEL] __attribute__((aligned(64)));
    const size_t K = job->K, columns = job->n1 - n < PANEL ? job->n1 - n : PANEL;
    const size_t parts = (m1 - m0 + TILE_ROWS - 1) / TILE_ROWS, sections = K ? (K + SECTION - 1) / SECTION : 1;
    for (size_t s = 0; s < sections; s++) {
        const size_t k0 = part_begin(K, sections, s), k1 = part_begin(K, sections, s + 1);
        for (size_t i = 0; i < parts; i++) {
            const size_t m = m0 + part_begin(m1 - m0, parts, i), rows = m0 + part_begin(m1 - m0, parts, i + 1) - m;
            const struct tile_f32 t = {.a = job->a + m * job->lda + k0, .lda = job->lda, .w = job->w + n * K + k0 * PANEL,
                                       .K = k1 - k0, .c = strip + (m - m0) * PANEL, .ldc = PANEL, .more = s > 0};
            tiles[rows - 1](&t);
            if (s + 1 == sections) {
                const struct tx_epilogue_f32 e = epilogue_at(&job->epilogue, m, n);
                txk_epilogue_f32_neon(job->out + m * job->ldo + n, job->ldo, t.c, PANEL, rows, columns, &e);
            }
        }
    }
}

void txk_gemm_f32_neon(const struct tx_gemm_f32 *job)
{
    size_t most = job->K ? A_FLOATS / job->K : MAX_ROWS;
    most = most < MIN_ROWS ? MIN_ROWS : most > MAX_ROWS ? MAX_ROWS : most;
    const size_t blocks = (job->M + most - 1) / most;
    for (size_t b = 0; b < blocks; b++)
        for (size_t n = job->n0; n < job->n1; n += PANEL)
            panel(job, part_begin(job->M, blocks, b), part_begin(job->M, blocks, b + 1), n);
}
