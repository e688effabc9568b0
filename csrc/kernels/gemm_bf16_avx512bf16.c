/* gemm_bf16 with vdpbf16ps: gemm_low_avx512.h, two elements of K a step. Sums in float32, to nearest even, subnormals flushed. */
#include "gemm_low_avx512.h"

LOW_ROWS_FUNCTIONS(0)

TXK_INLINE void low_tile(const struct low_tile *t, const int rows)
{
    __m512 acc[ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
        acc[r][0] = acc[r][1] = _mm512_setzero_ps();
    const char *a = t->a, *w = t->w, *ahead = t->ahead;
    const size_t lda = t->lda;
    for (size_t k = t->dwords; k > 0; k--, a += 4, w += 4 * NR, ahead += t->ahead_step) {
        fetch_ahead(ahead, t->ahead_step);
        const __m512bh left = (__m512bh)_mm512_load_si512(w), right = (__m512bh)_mm512_load_si512(w + 64);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const __m512bh row = (__m512bh)broadcast_dword(a + r * lda);
            acc[r][0] = _mm512_dpbf16_ps(acc[r][0], row, left);
            acc[r][1] = _mm512_dpbf16_ps(acc[r][1], row, right);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        _mm512_store_ps(t->c + r * 4 * NR, acc[r][0]);
        _mm512_store_ps(t->c + r * 4 * NR + 64, acc[r][1]);
    }
}

#define TILE(rows) static void low_tile_##rows(const struct low_tile *t) { low_tile(t, rows); }
LOW_TILES(TILE)

void txk_gemm_bf16_avx512bf16(const struct tx_gemm_low *job)
{
    static low_tile_function *const tiles[ROWS + 1] = LOW_TILE_NAMES;
    gemm_low(job, low_rows_of_act[job->epilogue.act], tiles, NULL, 2);
}
