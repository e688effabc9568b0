/* gemm_int8 without VNNI: what ../avx2/gemm_int8.c has rounded and packed, multiplied as there, 512 bits at a time. A line of
 * its layout, four k of 16 columns, is a vector. There is no vpsignb of this width: a masked subtraction moves signs over. */
#define NARROW_TILE_ROWS 12
#include "../avx2/gemm_int8.h"
#include "row.h"

enum { ROWS = NARROW_TILE_ROWS };

/* acc[i] += eight of A[i] times the eights of w, for one row i and one step e (both literals). In assembly, as there. */
#if defined(__SANITIZE_ADDRESS__)
#define EIGHT_ROW(i, e)                                                                                        \
    if (MR > i) {                                                                                              \
        const __m512i p = _mm512_maddubs_epi16(_mm512_set1_epi32(four_bytes(a + i * WIDE_LD + 8 * e)), w0);    \
        const __m512i q = _mm512_maddubs_epi16(_mm512_set1_epi32(four_bytes(a + i * WIDE_LD + 8 * e + 4)), w1); \
        acc[i] = _mm512_add_epi32(acc[i], _mm512_madd_epi16(_mm512_add_epi16(p, q), ones));                    \
    }
#else
#define EIGHT_ROW(i, e)                                                                                        \
    if (MR > i) {                                                                                              \
        __m512i x, y;                                                                                          \
        __asm__("vpbroadcastd %c[offset](%[a]), %[x]\n\t"                                                      \
                "vpbroadcastd 4+%c[offset](%[a]), %[y]\n\t"                                                    \
                "vpmaddubsw %[w0], %[x], %[x]\n\t"                                                             \
                "vpmaddubsw %[w1], %[y], %[y]\n\t"                                                             \
                "vpaddw %[y], %[x], %[x]\n\t"                                                                  \
                "vpmaddwd %[ones], %[x], %[x]\n\t"                                                             \
                "vpaddd %[x], %[c], %[c]"                                                                      \
                : [c] "+v"(acc[i]), [x] "=&v"(x), [y] "=&v"(y)                                                 \
                : [a] "r"(a), [offset] "i"(i * WIDE_LD + 8 * e), [w0] "v"(w0), [w1] "v"(w1), [ones] "v"(ones), \
                  "m"(*(const char(*)[1 << 16])a));                                                            \
    }
#endif

#define EIGHT(e)                                                                                               \
    {                                                                                                          \
        const __m512i w0 = _mm512_load_si512(w + 128 * e), w1 = _mm512_load_si512(w + 128 * e + 64);           \
        EIGHT_ROW(0, e) EIGHT_ROW(1, e) EIGHT_ROW(2, e) EIGHT_ROW(3, e) EIGHT_ROW(4, e) EIGHT_ROW(5, e)        \
        EIGHT_ROW(6, e) EIGHT_ROW(7, e) EIGHT_ROW(8, e) EIGHT_ROW(9, e) EIGHT_ROW(10, e) EIGHT_ROW(11, e)      \
    }

/* acc[i] += four of A[i] times the fours of w, whose magnitudes are m and whose negative ones are in `minus`. */
#if defined(__SANITIZE_ADDRESS__)
#define FOUR_ROW(i, q)                                                                                         \
    if (MR > i) {                                                                                              \
        const __m512i x = _mm512_set1_epi32(four_bytes(a + i * WIDE_LD + 4 * q));                              \
        const __m512i p = _mm512_maddubs_epi16(m, _mm512_mask_sub_epi8(x, minus, zero, x));                    \
        acc[i] = _mm512_add_epi32(acc[i], _mm512_madd_epi16(p, ones));                                         \
    }
#else
#define FOUR_ROW(i, q)                                                                                         \
    if (MR > i) {                                                                                              \
        __m512i x;                                                                                             \
        __asm__("vpbroadcastd %c[offset](%[a]), %[x]\n\t"                                                      \
                "vpsubb %[x], %[zero], %[x]%{%[minus]%}\n\t"                                                   \
                "vpmaddubsw %[x], %[m], %[x]\n\t"                                                              \
                "vpmaddwd %[ones], %[x], %[x]\n\t"                                                             \
                "vpaddd %[x], %[c], %[c]"                                                                      \
                : [c] "+v"(acc[i]), [x] "=&v"(x)                                                               \
                : [a] "r"(a), [offset] "i"(i * WIDE_LD + 4 * q), [m] "v"(m), [minus] "Yk"(minus),              \
                  [zero] "v"(zero), [ones] "v"(ones), "m"(*(const char(*)[1 << 16])a));                        \
    }
#endif

#define FOUR(q)                                                                                                \
    {                                                                                                          \
        const __m512i four = _mm512_load_si512(w + 64 * q), m = _mm512_abs_epi8(four);                         \
        const __mmask64 minus = _mm512_movepi8_mask(four);                                                     \
        FOUR_ROW(0, q) FOUR_ROW(1, q) FOUR_ROW(2, q) FOUR_ROW(3, q) FOUR_ROW(4, q) FOUR_ROW(5, q)              \
        FOUR_ROW(6, q) FOUR_ROW(7, q) FOUR_ROW(8, q) FOUR_ROW(9, q) FOUR_ROW(10, q) FOUR_ROW(11, q)            \
    }

/* C[MR,16] = or += A[MR,K] W[K,16]; `fit`: W has the bound, and A is a + 128. */
TXK_INLINE void tile(const struct narrow_tile *t, const int MR, const int fit)
{
    const __m512i zero = _mm512_setzero_si512(), ones = _mm512_set1_epi16(1);
    __m512i acc[ROWS];
    int32_t *c = t->c;
#pragma GCC unroll 12
    for (int i = 0; i < MR; i++)
        acc[i] = t->more ? _mm512_load_si512(c + i * RUN) : _mm512_setzero_si512();
    const char *a = t->a, *w = t->w, *ahead = t->ahead;
    const size_t ahead_step = t->ahead_step;
    for (size_t k = t->K; k > 0; k -= 16) {
        ahead = fetch_ahead(ahead, ahead_step);
        if (fit) {
            EIGHT(0) EIGHT(1)
        } else {
            FOUR(0) FOUR(1) FOUR(2) FOUR(3)
        }
        w += 16 * PANEL;
        a += 16;
    }
#pragma GCC unroll 12
    for (int i = 0; i < MR; i++)
        _mm512_store_si512(c + i * RUN, acc[i]);
}

#define TILE(MR)                                                                    \
    static void fit_tile_##MR(const struct narrow_tile *t) { tile(t, MR, 1); }      \
    static void any_tile_##MR(const struct narrow_tile *t) { tile(t, MR, 0); }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
#define TILES(of) {of##_tile_1, of##_tile_2, of##_tile_3, of##_tile_4, of##_tile_5, of##_tile_6,                    \
                   of##_tile_7, of##_tile_8, of##_tile_9, of##_tile_10, of##_tile_11, of##_tile_12}

void txk_gemm_bytes_avx512(const struct tx_gemm_narrow *job)
{
    static narrow_tile_function *const tiles[ROWS] = TILES(any);
    static const struct narrow_kind kind = {.size = 1, .section = SECTION_BYTES, .step = 16, .rows = ROWS, .panel = PANEL,
                                            .tiles = tiles, .place_a = copy_bytes, .epilogue = txk_epilogue_f32_avx512,
                                            .finish_sums = finish_int8};
    gemm_narrow(job, &kind);
}

void txk_gemm_int8_avx512(const struct tx_gemm_narrow *job)
{
    static narrow_tile_function *const tiles[ROWS] = TILES(fit);
    static const struct narrow_kind kind = {.size = 1, .section = SECTION_BYTES, .step = 16, .rows = ROWS, .panel = PANEL,
                                            .tiles = tiles, .place_a = unsigned_a, .epilogue = txk_epilogue_f32_avx512,
                                            .finish_sums = finish_fit};
    if (all_fit(job))
        gemm_narrow(job, &kind);
    else
        txk_gemm_bytes_avx512(job);
}
