/* gemm_int8 with vpdpbusd: gemm_low_avx512.h, four elements of K a step.
 *
 * The instruction multiplies unsigned by signed, so W is packed as w + 128 and the sums of a row begin at -128 times the sum of that row of
 * A. Nothing saturates: four products of at most 255 x 127 fit, and the sums wrap and unwrap as one. */
#include "gemm_low_avx512.h"

LOW_ROWS_FUNCTIONS(1)

static void begin(int32_t *begins, const char *a, size_t lda, size_t rows, size_t Kb)
{
    for (size_t r = 0; r < rows; r++, a += lda) {
        __m512i sum = _mm512_setzero_si512();
        for (size_t k = 0; k < Kb; k += 64)
            sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_load_si512(a + k));
        begins[r] = -128 * _mm512_reduce_add_epi32(sum);
    }
}

TXK_INLINE void low_tile(const struct low_tile *t, const int rows)
{
    __m512i acc[ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
        acc[r][0] = acc[r][1] = _mm512_set1_epi32(t->begin[r]);
    const char *a = t->a, *w = t->w, *ahead = t->ahead;
    const size_t lda = t->lda;
    for (size_t k = t->dwords; k > 0; k--, a += 4, w += 4 * NR, ahead += t->ahead_step) {
        fetch_ahead(ahead, t->ahead_step);
        const __m512i left = _mm512_load_si512(w), right = _mm512_load_si512(w + 64);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const __m512i row = broadcast_dword(a + r * lda);
            acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], left, row);
            acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], right, row);
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
    gemm_low(job, low_rows_of_act[job->epilogue.act], tiles, begin, 1);
}
