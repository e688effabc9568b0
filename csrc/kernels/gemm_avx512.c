/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) in float32.
 *
 * Packed W: panels of 32 columns, [N/32][K][32], the last one padded with zeros. A panel is read from one end to the other, so W
 * streams; A is read in place. Blocks of rows are chosen so that they stay in L2 while the panels go by. */
#include <string.h>

#include "kernels_avx512.h"
#include "tile_avx512.h"

enum { NR = 32 };

size_t txk_gemm_f32_packed_avx512(size_t N, size_t K)
{
    return (N + NR - 1) / NR * NR * K;
}

void txk_gemm_f32_pack_avx512(float *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    for (size_t n = n0; n < n1; n += NR) {
        float *panel = dst + n * K;
        const size_t columns = n1 - n < NR ? n1 - n : NR;
        for (size_t k = 0; k < K; k++)
            for (size_t j = 0; j < NR; j++)
                panel[k * NR + j] = j < columns ? w[(n + j) * K + k] : 0.0f;
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

#define TILE(MR) static void tile_##MR(const struct tile_f32 *t) { tile_f32(t, MR, 2, 0); }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12) TILE(13) TILE(14)

static void (*const tiles[TILE_ROWS + 1])(const struct tile_f32 *) = {
    NULL, tile_1, tile_2, tile_3, tile_4, tile_5, tile_6, tile_7, tile_8, tile_9, tile_10, tile_11, tile_12, tile_13, tile_14,
};

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

/* Rows m0..m1 against one panel. */
static void panel(const struct tx_gemm_f32 *job, size_t m0, size_t m1, size_t n)
{
    float c[TILE_ROWS * NR] __attribute__((aligned(64)));
    const size_t columns = job->n1 - n < NR ? job->n1 - n : NR;
    const size_t parts = (m1 - m0 + TILE_ROWS - 1) / TILE_ROWS;
    for (size_t i = 0; i < parts; i++) {
        const size_t m = m0 + part_begin(m1 - m0, parts, i), rows = m0 + part_begin(m1 - m0, parts, i + 1) - m;
        const struct tile_f32 t = {
            .a = job->a + m * job->lda, .lda = job->lda, .w = job->w + n * job->K, .ldw = NR, .K = job->K, .c = c, .ldc = NR,
            .ahead = (const char *)(job->w + n * job->K), .ahead_step = 0,
        };
        tiles[rows](&t);
        const struct tx_epilogue_f32 e = epilogue_at(&job->epilogue, m, n);
        txk_epilogue_f32_avx512(job->out + m * job->ldo + n, job->ldo, c, NR, rows, columns, &e);
    }
}

void txk_gemm_f32_avx512(const struct tx_gemm_f32 *job)
{
    /* Half of a 2 MB L2, which two threads may share. */
    size_t block = 128 * 1024 / (job->K ? job->K : 1) / TILE_ROWS * TILE_ROWS;
    block = block < TILE_ROWS ? TILE_ROWS : block;
    for (size_t m = 0; m < job->M; m += block)
        for (size_t n = job->n0; n < job->n1; n += NR)
            panel(job, m, m + block < job->M ? m + block : job->M, n);
}
