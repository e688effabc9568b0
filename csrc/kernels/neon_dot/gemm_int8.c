/* out[M, n0:n1] = epilogue(sum * (a_scale w_scale)), sum = A[M,K] W[N,K]^T in int8, exact in int32.
 *
 * SDOT: 4 products of bytes, signed by signed, into each int32, one factor by a lane: 16 products an instruction. A and W are
 * read in place, 4 k of a column side by side; ../neon/gemm_narrow.h has order and layout, ../neon/tile.h what fills the
 * registers. */
#include "../neon/gemm_narrow.h"
#include "row.h"

enum { SIDE = 4 };

size_t txk_gemm_int8_packed_neon_dot(size_t N, size_t K)
{
    return narrow_packed(N, K);
}

void txk_gemm_int8_pack_neon_dot(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    pack_int8(dst, w, K, n0, n1, SIDE);
}

void txk_gemm_int8_unpack_neon_dot(int8_t *w, const int8_t *packed, size_t N, size_t K)
{
    unpack_int8(w, packed, N, K, SIDE);
}

#undef TILE_LANE /* of float32 */
#define TILE_LANE(l)                                                                          \
    _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++)                                       \
    {                                                                                         \
        TILE_IN_TURN();                                                                       \
        const int8x16_t x = vld1q_s8(w + (l)*SIDE * PANEL + 16 * j);                          \
        _Pragma("GCC unroll 6") for (int i = 0; i < MR; i++)                                  \
            acc[i][j] = vdotq_laneq_s32(acc[i][j], x, a[i], l);                               \
    }

TXK_INLINE void tile(const struct narrow_tile *t, const int MR)
{
    int32x4_t acc[TILE_ROWS][4];
    int8x16_t a[TILE_ROWS];
    int32_t *c = t->c;
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            acc[i][j] = t->more ? vld1q_s32(c + i * RUN + 4 * j) : vdupq_n_s32(0);
    const int8_t *w = (const int8_t *)t->w, *from = (const int8_t *)t->a;
    const size_t lda = t->lda;
    for (size_t k = t->K; k > 0; k -= 4 * SIDE) {
#pragma GCC unroll 6
        for (int i = 0; i < MR; i++)
            a[i] = vld1q_s8(from + i * lda);
        TILE_LANE(0) TILE_LANE(1) TILE_LANE(2) TILE_LANE(3)
        w += 4 * SIDE * PANEL;
        from += 4 * SIDE;
    }
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            vst1q_s32(c + i * RUN + 4 * j, acc[i][j]);
}

#define TILE(MR) static void tile_##MR(const struct narrow_tile *t) { tile(t, MR); }
NARROW_TILES

void txk_gemm_int8_neon_dot(const struct tx_gemm_narrow *job)
{
    static const struct narrow_kind kind = {.size = 1, .section = SECTION_BYTES, .tiles = tiles, .int8 = 1};
    gemm_narrow(job, &kind);
}
