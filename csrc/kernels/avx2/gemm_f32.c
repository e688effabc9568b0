/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) in float32.
 *
 * Packed W: panels of 16 columns, [N/16][K][16], the last one padded with zeros; A is read in place.
 *
 * Order: blocks of rows (so that their part of A stays in L2) > panels > sections of K (so that a section of W stays in L1)
 * > tiles of at most 6 rows. While the tiles work on one section, the next one is prefetched a little with each, so W
 * arrives from memory at an even pace. Sums over sections wait in a strip of C on the stack, and the epilogue runs on a tile
 * when its sums are whole. An element is a sum of chains (tile.h), one a section, whose borders are a function of K alone:
 * one chain over all of K would err in proportion to the root of its length. */
#include "row.h"
#include "epilogue.h"
#include "pack.h"
#include "tile.h"

enum {
    MAX_ROWS = 240,             /* of a block */
    MIN_ROWS = 72,              /* W is read from memory once for so many rows, however large K is */
    A_FLOATS = 192 * 1024,      /* of a block of A: 768 KB; a smaller L2 leaves some to L3, 4 bytes a cycle */
    SECTION = 384,              /* 24 KB of W: most of the smallest L1 */
};

size_t txk_gemm_f32_packed_avx2(size_t N, size_t K)
{
    return (N + PANEL - 1) / PANEL * PANEL * K;
}

void txk_gemm_f32_pack_avx2(float *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    for (size_t n = n0; n < n1; n += PANEL) {
        float *panel = dst + n * K;
        for (size_t k = 0; k < K; k += 8)
            for (size_t j = 0; j < PANEL; j += 8) {
                __m256 r[8];
                load_columns(r, w, K, n + j, n1, k);
                for (size_t i = 0; i < 8 && k + i < K; i++)
                    _mm256_store_ps(panel + (k + i) * PANEL + j, r[i]);
            }
    }
}

void txk_gemm_f32_unpack_avx2(float *w, const float *packed, size_t N, size_t K)
{
    for (size_t n = 0; n < N; n++) {
        const float *from = packed + n / PANEL * PANEL * K + n % PANEL;
        for (size_t k = 0; k < K; k++)
            w[n * K + k] = from[k * PANEL];
    }
}

#define TILE(MR) static void tile_##MR(const struct tile_f32 *t) { tile_f32(t, MR, 2, 0); }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
static void (*const tiles[TILE_ROWS])(const struct tile_f32 *) = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6};

/* Rows m0..m1 against the panel at column n. `after`: the panel comes after this one in memory, and its turn is next. */
static void panel(const struct tx_gemm_f32 *job, size_t m0, size_t m1, size_t n, int after)
{
    float strip[MAX_ROWS * PANEL] __attribute__((aligned(64)));
    const size_t K = job->K, columns = job->n1 - n < PANEL ? job->n1 - n : PANEL;
    const size_t parts = (m1 - m0 + TILE_ROWS - 1) / TILE_ROWS, sections = K ? (K + SECTION - 1) / SECTION : 1;
    const float *w = job->w + n * K;
    for (size_t s = 0; s < sections; s++) {
        const size_t k0 = part_begin(K, sections, s), k1 = part_begin(K, sections, s + 1);
        /* The section after this one, shared out among the tiles: bytes for each 4 k. */
        const size_t ahead_step = s + 1 < sections || after ? 4 * PANEL * sizeof(float) / parts : 0;
        for (size_t i = 0; i < parts; i++) {
            const size_t m = m0 + part_begin(m1 - m0, parts, i), rows = m0 + part_begin(m1 - m0, parts, i + 1) - m;
            const struct tile_f32 t = {
                .a = job->a + m * job->lda + k0, .lda = job->lda, .w = w + k0 * PANEL, .K = k1 - k0,
                .c = strip + (m - m0) * PANEL, .ldc = PANEL, .add = s > 0,
                .ahead = (const char *)(w + (ahead_step ? k1 * PANEL : 0)) + (k1 - k0) / 4 * ahead_step * i,
                .ahead_step = ahead_step,
            };
            if (s + 1 == sections)
                prefetch_out(job->out + m * job->ldo + n, job->ldo * sizeof(float), &job->epilogue, m, rows, n);
            tiles[rows - 1](&t);
            if (s + 1 == sections) {
                const struct tx_epilogue_f32 e = epilogue_at(&job->epilogue, m, n);
                txk_epilogue_f32_avx2(job->out + m * job->ldo + n, job->ldo, t.c, PANEL, rows, columns, &e);
            }
        }
    }
}

void txk_gemm_f32_avx2(const struct tx_gemm_f32 *job)
{
    size_t most = job->K ? A_FLOATS / job->K : MAX_ROWS;
    most = most < MIN_ROWS ? MIN_ROWS : most > MAX_ROWS ? MAX_ROWS : most;
    const size_t blocks = (job->M + most - 1) / most;
    for (size_t b = 0; b < blocks; b++)
        for (size_t n = job->n0; n < job->n1; n += PANEL)
            panel(job, part_begin(job->M, blocks, b), part_begin(job->M, blocks, b + 1), n, n + PANEL < job->n1);
}
