/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) with factors in bfloat16, widened to float32: products are exact, sums float32 in
 * ascending k.
 *
 * Packed W: panels of 16 columns, [N/16][Kp][16] with Kp = tx_k_padded(K), zero padded; the columns of a k lie in the order
 * 0-3, 8-11, 4-7, 12-15, which is what packing two vectors to 16 bits gives and what the tile of tile.h wants. gemm_narrow.h
 * has the rest. */
#include "gemm_narrow.h"
#include "pack.h"

size_t txk_gemm_bf16_packed_avx2(size_t N, size_t K)
{
    return (N + PANEL - 1) / PANEL * PANEL * tx_k_padded(K);
}

void txk_gemm_bf16_pack_avx2(uint16_t *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    const size_t Kp = tx_k_padded(K);
    for (size_t n = n0; n < n1; n += PANEL)
        for (size_t k = 0; k < Kp; k += 8) {
            __m256 low[8], high[8];
            load_columns(low, w, K, n, n1, k);
            load_columns(high, w, K, n + 8, n1, k);
            for (size_t i = 0; i < 8; i++) {
                const __m256i row = _mm256_packus_epi32(bf16_of_f32x8(low[i]), bf16_of_f32x8(high[i]));
                _mm256_store_si256((__m256i *)(dst + n * Kp + (k + i) * PANEL), row);
            }
        }
}

void txk_gemm_bf16_unpack_avx2(uint16_t *w, const uint16_t *packed, size_t N, size_t K)
{
    const size_t Kp = tx_k_padded(K);
    for (size_t n = 0; n < N; n++) {
        /* 4..7 and 8..11 change places. */
        const size_t j = n % PANEL, at = j / 4 == 1 ? j + 4 : j / 4 == 2 ? j - 4 : j;
        const uint16_t *from = packed + n / PANEL * PANEL * Kp + at;
        for (size_t k = 0; k < K; k++)
            w[n * K + k] = from[k * PANEL];
    }
}

static void widen_a(char *to, const char *from, size_t K)
{
    const uint16_t *a = (const uint16_t *)from;
    for (size_t k = 0; k < K; k += 8)
        _mm256_store_ps((float *)to + k, load_bf16x8(a + k, 8));
}

TXK_INLINE void tile(const struct narrow_tile *t, const int MR)
{
    const struct tile_f32 f = {.a = (const float *)t->a, .lda = WIDE_LD / sizeof(float), .w = t->w, .K = t->K, .c = t->c,
                               .ldc = RUN, .more = t->more, .ahead = t->ahead, .ahead_step = t->ahead_step};
    tile_f32(&f, MR, 2, 1);
}

#define TILE(MR) static void tile_##MR(const struct narrow_tile *t) { tile(t, MR); }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
static narrow_tile_function *const tiles[TILE_ROWS] = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6};

void txk_gemm_bf16_avx2(const struct tx_gemm_narrow *job)
{
    static const struct narrow_kind kind = {.size = sizeof(uint16_t), .section = SECTION_BYTES / sizeof(float), .step = 4,
                                            .rows = TILE_ROWS, .panel = PANEL, .tiles = tiles, .place_a = widen_a,
                                            .epilogue = txk_epilogue_f32_avx2};
    gemm_narrow(job, &kind);
}
