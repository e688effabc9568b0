/* gemm_int8 with vpdpbusd: gemm_low_avx512.h, four elements of K a step.
 *
 * The instruction multiplies unsigned by signed, so A enters as a + 128 (its top bit flipped) and the sums begin at -128 times the sum of
 * their column of W, found once a panel. Nothing saturates: four products of at most 255 x 128 fit, and the sums wrap and unwrap as one. */
#include "gemm_low_avx512.h"

LOW_ROWS_FUNCTIONS(1)

static void prepare(void *extra, const char *panel, size_t dwords)
{
    __m512i left = _mm512_setzero_si512(), right = _mm512_setzero_si512();
    for (size_t k = 0; k < dwords; k++, panel += 4 * NR) {
        left = _mm512_dpbusd_epi32(left, _mm512_set1_epi8((char)128), _mm512_load_si512(panel));
        right = _mm512_dpbusd_epi32(right, _mm512_set1_epi8((char)128), _mm512_load_si512(panel + 64));
    }
    __m512i *offsets = extra;
    offsets[0] = _mm512_sub_epi32(_mm512_setzero_si512(), left);
    offsets[1] = _mm512_sub_epi32(_mm512_setzero_si512(), right);
}

TXK_INLINE void low_tile(const struct low_tile *t, const int rows)
{
    __m512i acc[ROWS][2];
    const __m512i *offsets = t->extra, flip = _mm512_set1_epi8((char)128);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
        acc[r][0] = offsets[0], acc[r][1] = offsets[1];
    const char *a = t->a, *w = t->w;
    const size_t lda = t->lda;
    for (size_t k = t->dwords; k > 0; k--, a += 4, w += 4 * NR) {
        const __m512i left = _mm512_load_si512(w), right = _mm512_load_si512(w + 64);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const __m512i row = _mm512_xor_si512(broadcast_dword(a + r * lda), flip);
            acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], row, left);
            acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], row, right);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        _mm512_store_si512(t->c + r * 4 * NR, acc[r][0]);
        _mm512_store_si512(t->c + r * 4 * NR + 64, acc[r][1]);
    }
}

#define TILE(rows) static void low_tile_##rows(const struct low_tile *t) { low_tile(t, rows); }
LOW_TILES(TILE)

void txk_gemm_int8_avx512vnni(const struct tx_gemm_low *job)
{
    static low_tile_function *const tiles[ROWS + 1] = LOW_TILE_NAMES;
    __m512i offsets[2];
    gemm_low(job, low_rows_of_act[job->epilogue.act], tiles, prepare, offsets, 1);
}
