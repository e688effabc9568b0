/* gemm_bf16 on CPUs whose AVX-512 came before its instruction: factors are widened to float32, so products are exact and sums
 * float32 in ascending k. ../avx2/gemm_narrow.h has order and method, pack_narrow.c the layout: a line of 128 bytes holds two k
 * of 32 columns, and a shift and a mask make float32 of either. */
#define NARROW_TILE_ROWS 12
#include "../avx2/gemm_narrow.h"
#include "row.h"

enum { ROWS = NARROW_TILE_ROWS, NR = 32 };

static void widen_a(char *to, const char *from, size_t K)
{
    for (size_t k = 0; k < K; k += 16) {
        const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(from + 2 * k)));
        _mm512_store_si512(to + 4 * k, _mm512_slli_epi32(wide, 16));
    }
}

/* acc[i] += A[i, k] times the columns in w0 and w1, for one row i and one k (both literals). In assembly, as in tile.h. */
#if defined(__SANITIZE_ADDRESS__)
#define WIDE_ROW(i, k, w0, w1)                                                  \
    if (MR > i) {                                                               \
        const __m512 x = _mm512_set1_ps(((const float *)(a + i * WIDE_LD))[k]); \
        acc[i][0] = _mm512_fmadd_ps(x, w0, acc[i][0]);                          \
        acc[i][1] = _mm512_fmadd_ps(x, w1, acc[i][1]);                          \
    }
#else
#define WIDE_ROW(i, k, w0, w1)                                                                          \
    if (MR > i) {                                                                                       \
        __m512 x;                                                                                       \
        __asm__("vbroadcastss %c[offset](%[a]), %[x]" : [x] "=v"(x)                                     \
                : [a] "r"(a), [offset] "i"(i * WIDE_LD + 4 * (k)), "m"(*(const char(*)[1 << 16])a));      \
        __asm__("vfmadd231ps %[w], %[x], %[c]" : [c] "+v"(acc[i][0]) : [w] "v"(w0), [x] "v"(x));        \
        __asm__("vfmadd231ps %[w], %[x], %[c]" : [c] "+v"(acc[i][1]) : [w] "v"(w1), [x] "v"(x));        \
    }
#endif

#define WIDE_K(k, w0, w1)                                                                               \
    WIDE_ROW(0, k, w0, w1) WIDE_ROW(1, k, w0, w1) WIDE_ROW(2, k, w0, w1) WIDE_ROW(3, k, w0, w1)         \
    WIDE_ROW(4, k, w0, w1) WIDE_ROW(5, k, w0, w1) WIDE_ROW(6, k, w0, w1) WIDE_ROW(7, k, w0, w1)         \
    WIDE_ROW(8, k, w0, w1) WIDE_ROW(9, k, w0, w1) WIDE_ROW(10, k, w0, w1) WIDE_ROW(11, k, w0, w1)

/* Two k: those in the lower halves of a line's dwords, and those in the upper. */
#define WIDE_PAIR(k)                                                                                    \
    {                                                                                                   \
        const __m512i left = _mm512_load_si512(w + 2 * NR * k), right = _mm512_load_si512(w + 2 * NR * k + 64); \
        const __m512 even0 = _mm512_castsi512_ps(_mm512_slli_epi32(left, 16));                          \
        const __m512 even1 = _mm512_castsi512_ps(_mm512_slli_epi32(right, 16));                         \
        const __m512 odd0 = _mm512_castsi512_ps(_mm512_and_si512(left, upper));                         \
        const __m512 odd1 = _mm512_castsi512_ps(_mm512_and_si512(right, upper));                        \
        WIDE_K(k, even0, even1)                                                                         \
        WIDE_K(k + 1, odd0, odd1)                                                                       \
    }

/* C[MR,32] = or += A[MR,K] W[K,32]: 24 sums, four vectors of W, a broadcast and the mask. */
TXK_INLINE void tile(const struct narrow_tile *t, const int MR)
{
    const __m512i upper = _mm512_set1_epi32((int32_t)0xffff0000);
    __m512 acc[ROWS][2];
    float *c = t->c;
#pragma GCC unroll 12
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++)
            acc[i][j] = t->more ? _mm512_load_ps(c + i * RUN + 16 * j) : _mm512_setzero_ps();
    const char *a = t->a, *w = t->w, *ahead = t->ahead;
    const size_t ahead_step = t->ahead_step;
    for (size_t k = t->K; k > 0; k -= 4) {
        ahead = fetch_ahead(ahead, ahead_step);
        WIDE_PAIR(0)
        WIDE_PAIR(2)
        a += 4 * sizeof(float);
        w += 4 * NR * sizeof(uint16_t);
    }
#pragma GCC unroll 12
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++)
            _mm512_store_ps(c + i * RUN + 16 * j, acc[i][j]);
}

#define TILE(MR) static void tile_##MR(const struct narrow_tile *t) { tile(t, MR); }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
static narrow_tile_function *const tiles[ROWS] = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6,
                                                  tile_7, tile_8, tile_9, tile_10, tile_11, tile_12};

void txk_gemm_bf16_avx512(const struct tx_gemm_narrow *job)
{
    static const struct narrow_kind kind = {.size = sizeof(uint16_t), .section = SECTION_BYTES / sizeof(float), .step = 4,
                                            .rows = ROWS, .panel = NR, .tiles = tiles, .place_a = widen_a,
                                            .epilogue = txk_epilogue_f32_avx512};
    gemm_narrow(job, &kind);
}
