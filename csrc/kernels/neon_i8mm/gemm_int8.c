/* out[M, n0:n1] = epilogue(sum * (a_scale w_scale)), sum = A[M,K] W[N,K]^T in int8, exact in int32, by SMMLA: 8 k of a column
 * side by side. ../neon/matrix_tile.h has the tile, ../neon/gemm_narrow.h order and layout. */
#include "../neon/matrix_tile.h"
#include "row.h"

enum { SIDE = 8 };

size_t txk_gemm_int8_packed_neon_i8mm(size_t N, size_t K)
{
    return narrow_packed(N, K);
}

void txk_gemm_int8_pack_neon_i8mm(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    pack_int8(dst, w, K, n0, n1, SIDE);
}

void txk_gemm_int8_unpack_neon_i8mm(int8_t *w, const int8_t *packed, size_t N, size_t K)
{
    unpack_int8(w, packed, N, K, SIDE);
}

TXK_INLINE int8x16_t load(const char *p)
{
    return vld1q_s8((const int8_t *)p);
}

TXK_INLINE float32x4_t multiply(float32x4_t sums, int8x16_t a, int8x16_t w)
{
    return vreinterpretq_f32_s32(vmmlaq_s32(vreinterpretq_s32_f32(sums), a, w));
}

MATRIX_TILE(int8_t, int8x16_t, load, multiply)

#define TILE(MR) static void tile_##MR(const struct narrow_tile *t) { tile(t, MR); }
NARROW_TILES

static void prepare_a(char *to, const char *a, size_t lda, size_t rows, size_t K)
{
    prepare_pairs(to, a, lda, rows, K);
}

void txk_gemm_int8_neon_i8mm(const struct tx_gemm_narrow *job)
{
    static const struct narrow_kind kind = {.size = 1, .section = SECTION_BYTES, .tiles = tiles, .prepare_a = prepare_a,
                                            .int8 = 1};
    gemm_narrow(job, &kind);
}
