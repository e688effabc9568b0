/* out[M, n0:n1] = epilogue(sum * (a_scale w_scale)), sum = A[M,K] W[N,K]^T in int8, exact in int32.
 *
 * Bytes are widened to int16 in L1; SMLAL multiplies by a lane into int32, 4 products an instruction, as float32 has. (SMULL of
 * bytes and SADALP of the pairs have 8 in two instructions, and no lanes.) gemm_narrow.h has order and layout; here k of a
 * column stand alone. */
#include "gemm_narrow.h"

size_t txk_gemm_int8_packed_neon(size_t N, size_t K)
{
    return narrow_packed(N, K);
}

void txk_gemm_int8_pack_neon(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    pack_int8(dst, w, K, n0, n1, 1);
}

void txk_gemm_int8_unpack_neon(int8_t *w, const int8_t *packed, size_t N, size_t K)
{
    unpack_int8(w, packed, N, K, 1);
}

static void widen(int16_t *to, const int8_t *from, size_t n)
{
    for (size_t i = 0; i < n; i += 8)
        vst1q_s16(to + i, vmovl_s8(vld1_s8(from + i)));
}

static void prepare_a(char *to, const char *a, size_t lda, size_t rows, size_t K)
{
    for (size_t r = 0; r < rows; r++)
        widen((int16_t *)(to + r * SECTION_BYTES), (const int8_t *)(a + r * lda), K);
}

static void widen_w(char *to, const char *w, size_t K)
{
    widen((int16_t *)to, (const int8_t *)w, K * PANEL);
}

#undef TILE_LANE /* of float32 */
#define TILE_LANE(l)                                                                          \
    _Pragma("GCC unroll 2") for (int j = 0; j < 2; j++)                                       \
    {                                                                                         \
        TILE_IN_TURN();                                                                       \
        const int16x8_t x = vld1q_s16(w + (l)*PANEL + 8 * j);                                 \
        _Pragma("GCC unroll 6") for (int i = 0; i < MR; i++)                                  \
        {                                                                                     \
            acc[i][2 * j] = vmlal_laneq_s16(acc[i][2 * j], vget_low_s16(x), a[i], l);         \
            acc[i][2 * j + 1] = vmlal_high_laneq_s16(acc[i][2 * j + 1], x, a[i], l);          \
        }                                                                                     \
    }

TXK_INLINE void tile(const struct narrow_tile *t, const int MR)
{
    int32x4_t acc[TILE_ROWS][4];
    int16x8_t a[TILE_ROWS];
    int32_t *c = t->c;
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            acc[i][j] = t->more ? vld1q_s32(c + i * RUN + 4 * j) : vdupq_n_s32(0);
    const int16_t *w = (const int16_t *)t->w;
    const char *from = t->a;
    for (size_t k = t->K; k > 0; k -= 8) {
#pragma GCC unroll 6
        for (int i = 0; i < MR; i++)
            a[i] = vld1q_s16((const int16_t *)(from + i * t->lda));
        TILE_LANE(0) TILE_LANE(1) TILE_LANE(2) TILE_LANE(3) TILE_LANE(4) TILE_LANE(5) TILE_LANE(6) TILE_LANE(7)
        w += 8 * PANEL;
        from += 8 * sizeof(int16_t);
    }
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            vst1q_s32(c + i * RUN + 4 * j, acc[i][j]);
}

#define TILE(MR) static void tile_##MR(const struct narrow_tile *t) { tile(t, MR); }
NARROW_TILES

void txk_gemm_int8_neon(const struct tx_gemm_narrow *job)
{
    static const struct narrow_kind kind = {.size = 1, .section = SECTION_BYTES / sizeof(int16_t), .tiles = tiles,
                                            .prepare_a = prepare_a, .widen_w = widen_w, .int8 = 1};
    gemm_narrow(job, &kind);
}
