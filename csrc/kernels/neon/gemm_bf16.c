/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) with factors in bfloat16, widened to float32 in L1 and multiplied as float32 is:
 * products are exact, sums float32 in ascending k. gemm_narrow.h has order and layout; here k of a column stand alone. */
#include "gemm_narrow.h"

size_t txk_gemm_bf16_packed_neon(size_t N, size_t K)
{
    return narrow_packed(N, K);
}

void txk_gemm_bf16_pack_neon(uint16_t *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    pack_bf16(dst, w, K, n0, n1, 1);
}

void txk_gemm_bf16_unpack_neon(uint16_t *w, const uint16_t *packed, size_t N, size_t K)
{
    unpack_bf16(w, packed, N, K, 1);
}

static void widen(float *to, const uint16_t *from, size_t n)
{
    for (size_t i = 0; i < n; i += 4)
        vst1q_f32(to + i, load_bf16x4(from + i, 4));
}

static void prepare_a(char *to, const char *a, size_t lda, size_t rows, size_t K)
{
    for (size_t r = 0; r < rows; r++)
        widen((float *)(to + r * SECTION_BYTES), (const uint16_t *)(a + r * lda), K);
}

static void widen_w(char *to, const char *w, size_t K)
{
    widen((float *)to, (const uint16_t *)w, K * PANEL);
}

TXK_INLINE void tile(const struct narrow_tile *t, const int MR)
{
    const struct tile_f32 f = {.a = (const float *)t->a, .lda = t->lda / sizeof(float), .w = (const float *)t->w, .K = t->K,
                               .c = t->c, .ldc = RUN, .more = t->more};
    tile_f32(&f, MR, 4);
}

#define TILE(MR) static void tile_##MR(const struct narrow_tile *t) { tile(t, MR); }
NARROW_TILES

void txk_gemm_bf16_neon(const struct tx_gemm_narrow *job)
{
    static const struct narrow_kind kind = {.size = sizeof(uint16_t), .section = SECTION_BYTES / sizeof(float),
                                            .tiles = tiles, .prepare_a = prepare_a, .widen_w = widen_w};
    gemm_narrow(job, &kind);
}
