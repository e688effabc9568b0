/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) in float32.
 *
 * Packed W: panels of 64 columns, [N/64][K][64], the last one padded with zeros; A is read in place.
 *
 * Order: blocks of rows (so that their part of A stays in L2) > panels > sections of K (so that a section of W stays in L2) >
 * tiles of at most 6 rows. While the tiles work on one section, the next one is prefetched a little with each, so W arrives
 * from memory at an even pace and never stops the arithmetic. Sums over sections wait in strips of C on the stack, and the
 * epilogue runs on a tile when its sums are whole.
 *
 * An element is a sum of chains (tile.h) of at most CHAIN products, whose borders are a function of K alone; sections end where
 * chains do, or within one. One chain over all of K would err in proportion to the root of its length: 3e-6 of the largest at K
 * 5120, where this comes to 5e-7. */
#include <string.h>

#include "row.h"
#include "tile.h"

enum {
    NR = 64,
    MAX_ROWS = 256,             /* of a block */
    MIN_ROWS = 64,              /* W is read from memory once for so many rows, however large K is */
    A_FLOATS = 384 * 1024,      /* of a block of A: 1.5 MB of a 2 MB L2 */
    CHAIN = 384,
    FEW_ROWS = 64,              /* for up to so many a section is a quarter of a chain */
    QUARTER = 96,
};

size_t txk_gemm_f32_packed_avx512(size_t N, size_t K)
{
    return (N + NR - 1) / NR * NR * K;
}

void txk_gemm_f32_pack_avx512(float *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    for (size_t n = n0; n < n1; n += NR) {
        const size_t columns = n1 - n < NR ? n1 - n : NR;
        transpose_f32(dst + n * K, NR, w + n * K, K, columns, K);
    }
}

void txk_gemm_f32_unpack_avx512(float *w, const float *packed, size_t N, size_t K)
{
    for (size_t n = 0; n < N; n++) {
        const float *from = packed + n / NR * NR * K + n % NR;
        for (size_t k = 0; k < K; k++)
            w[n * K + k] = from[k * NR];
    }
}

/* Tiles by rows and by vectors of columns: the last panel computes no more of them than it has. */
#define TILE(MR, NV) static void tile_##MR##_##NV(const struct tile_f32 *t) { tile_f32(t, MR, NV, NR); }
#define TILES(NV) TILE(1, NV) TILE(2, NV) TILE(3, NV) TILE(4, NV) TILE(5, NV) TILE(6, NV)
TILES(1) TILES(2) TILES(3) TILES(4)
#define NAMES(NV) {tile_1_##NV, tile_2_##NV, tile_3_##NV, tile_4_##NV, tile_5_##NV, tile_6_##NV}
static void (*const tiles[NR / 16][TILE_ROWS])(const struct tile_f32 *) = {NAMES(1), NAMES(2), NAMES(3), NAMES(4)};

/* The epilogue for the block of out that starts at (m, n). */
static struct tx_epilogue_f32 epilogue_at(const struct tx_epilogue_f32 *whole, size_t m, size_t n)
{
    struct tx_epilogue_f32 e = *whole;
    if (e.bias)
        e.bias += n;
    if (e.residual)
        e.residual += m * e.ldr + n;
    if (e.gate)
        e.gate += n;
    if (e.group)
        e.group += m;
    return e;
}

/* What the epilogue of this tile will touch, on its way while the sums are made. */
static void prefetch_out(const struct tx_gemm_f32 *job, size_t m, size_t rows, size_t n, size_t columns)
{
    for (size_t i = m; i < m + rows; i++)
        for (size_t j = n; j < n + columns; j += 16) {
            __builtin_prefetch(job->out + i * job->ldo + j, 1);
            if (job->epilogue.residual)
                __builtin_prefetch(job->epilogue.residual + i * job->epilogue.ldr + j, 0);
        }
}

/* How K is cut. Few rows: W streams from memory, and short sections keep what is prefetched close to its use (M 32: 136 GFLOP/s
 * with 96, 125 with 192 or more). Measured, see benchmarks/RESULTS.md. */
struct cut {
    size_t chains, pieces, sections;    /* each chain in so many pieces, which are the sections */
};

static struct cut cut(size_t M, size_t K)
{
    const size_t chains = K ? (K + CHAIN - 1) / CHAIN : 1;
    const size_t pieces = M <= TILE_ROWS || M > FEW_ROWS ? 1 : (K / chains + QUARTER - 1) / QUARTER;
    return (struct cut){chains, pieces ? pieces : 1, chains * (pieces ? pieces : 1)};
}

/* Where section s begins; s may be their number. */
static size_t cut_at(const struct cut *cut, size_t K, size_t s)
{
    const size_t chain = s / cut->pieces, begin = part_begin(K, cut->chains, chain);
    if (s % cut->pieces == 0)
        return begin;
    return begin + part_begin(part_begin(K, cut->chains, chain + 1) - begin, cut->pieces, s % cut->pieces);
}

/* Rows m0..m1 against the panel at column n. `next`: the panel whose turn is next, or NULL. */
static void panel(const struct tx_gemm_f32 *job, size_t m0, size_t m1, size_t n, const float *next, struct fetch_beside *beside)
{
    float strip[MAX_ROWS * NR] __attribute__((aligned(64))), part[FEW_ROWS * NR] __attribute__((aligned(64)));
    const size_t K = job->K, columns = job->n1 - n < NR ? job->n1 - n : NR;
    const size_t parts = (m1 - m0 + TILE_ROWS - 1) / TILE_ROWS, for_w = fetch_tiles(&job->fetch, parts);
    const struct cut c = cut(job->M, K);
    const float *w = job->w + n * K;
    for (size_t s = 0; s < c.sections; s++) {
        const size_t k0 = cut_at(&c, K, s), k1 = cut_at(&c, K, s + 1), piece = s % c.pieces;
        /* The section after this one, shared out among the tiles; a single tile is as fast as memory without. */
        const float *ahead = s + 1 == c.sections ? next : parts > 1 ? w + k1 * NR : NULL;
        const size_t steps = (k1 - k0) / 4, lines = ahead ? 4 * NR * sizeof(float) / 64 : 0;
        for (size_t i = 0; i < parts; i++) {
            const size_t m = m0 + part_begin(m1 - m0, parts, i), rows = m0 + part_begin(m1 - m0, parts, i + 1) - m;
            const struct tile_f32 t = {
                .a = job->a + m * job->lda + k0, .lda = job->lda, .w = w + k0 * NR, .K = k1 - k0,
                .c = c.pieces > 1 ? part + (m - m0) * NR : NULL, .ldc = NR, .more = piece > 0,
                .sum = piece + 1 == c.pieces ? strip + (m - m0) * NR : NULL, .add = s >= c.pieces,
                .ahead = i < for_w ? fetch_part(ahead, lines, for_w, i, steps) : fetch_beside_next(beside, steps),
            };
            if (s + 1 == c.sections)
                prefetch_out(job, m, rows, n, columns);
            tiles[(columns - 1) / 16][rows - 1](&t);
            if (s + 1 == c.sections) {
                const struct tx_epilogue_f32 e = epilogue_at(&job->epilogue, m, n);
                txk_epilogue_f32_avx512(job->out + m * job->ldo + n, job->ldo, t.sum, NR, rows, columns, &e);
            }
        }
    }
}

void txk_gemm_f32_avx512(const struct tx_gemm_f32 *job)
{
    size_t most = job->K ? A_FLOATS / job->K : MAX_ROWS;
    most = most < MIN_ROWS ? MIN_ROWS : most > MAX_ROWS ? MAX_ROWS : most;
    const size_t blocks = (job->M + most - 1) / most;
    if (!blocks)
        return;
    const size_t panels = (job->n1 - job->n0 + NR - 1) / NR;
    const size_t tall = (part_begin(job->M, blocks, 1) + TILE_ROWS - 1) / TILE_ROWS;
    const size_t sections = cut(job->M, job->K).sections;
    const size_t tiles_beside = panels * sections * (tall - fetch_tiles(&job->fetch, tall));
    struct fetch_beside beside = fetch_beside(&job->fetch, tiles_beside, job->K / sections / 4);
    for (size_t b = 0; b < blocks; b++)
        for (size_t n = job->n0; n < job->n1; n += NR) {
            const float *next = n + NR < job->n1 ? job->w + (n + NR) * job->K
                                : b + 1 < blocks ? job->w + job->n0 * job->K : job->fetch.next;
            panel(job, part_begin(job->M, blocks, b), part_begin(job->M, blocks, b + 1), n, next, &beside);
        }
}
