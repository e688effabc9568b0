/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) in bfloat16 by BFMMLA: 4 k of a column side by side. ../neon/matrix_tile.h has the
 * tile, ../neon/gemm_narrow.h order and layout.
 *
 * The instruction adds two sums of two products each, without keeping all bits in between and with subnormals as 0 (its
 * rounding may be to odd); the error of such a step is within one of float32, as tests/numerics.py counts it. */
#include "../neon/matrix_tile.h"
#include "row.h"

enum { SIDE = 4 };

size_t txk_gemm_bf16_packed_neon_bf16(size_t N, size_t K)
{
    return narrow_packed(N, K);
}

void txk_gemm_bf16_pack_neon_bf16(uint16_t *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    pack_bf16(dst, w, K, n0, n1, SIDE);
}

void txk_gemm_bf16_unpack_neon_bf16(uint16_t *w, const uint16_t *packed, size_t N, size_t K)
{
    unpack_bf16(w, packed, N, K, SIDE);
}

TXK_INLINE bfloat16x8_t load(const char *p)
{
    return vld1q_bf16((const bfloat16_t *)p);
}

MATRIX_TILE(uint16_t, bfloat16x8_t, load, vbfmmlaq_f32)

#define TILE(MR) static void tile_##MR(const struct narrow_tile *t) { tile(t, MR); }
NARROW_TILES

static void prepare_a(char *to, const char *a, size_t lda, size_t rows, size_t K)
{
    prepare_pairs(to, a, lda, rows, K * sizeof(uint16_t));
}

void txk_gemm_bf16_neon_bf16(const struct tx_gemm_narrow *job)
{
    static const struct narrow_kind kind = {.size = sizeof(uint16_t), .section = SECTION_BYTES / sizeof(uint16_t),
                                            .tiles = tiles, .prepare_a = prepare_a};
    gemm_narrow(job, &kind);
}
