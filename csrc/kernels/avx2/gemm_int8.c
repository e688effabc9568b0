/* out[M, n0:n1] = epilogue(sum * (a_scale w_scale)), sum = A[M,K] W[N,K]^T in int8, exact in int32.
 *
 * Bytes are widened to int16; vpmaddwd multiplies and adds pairs of them into int32, where nothing is lost. (vpmaddubsw would
 * take bytes, but saturates; with signs moved to one side it does not, and then needs as many instructions as this.) A multiply
 * and an add for 16 products, on three ports, where float32 has 8 products an instruction on two: 1.5 times the float32 rate at
 * best.
 *
 * Packed W: panels of 16 columns, [N/16][Kp/2][16][2]: k and k + 1 of a column side by side; Kp = tx_k_padded(K), zero padded.
 * gemm_narrow.h has order and method. */
#include "gemm_narrow.h"

size_t txk_gemm_int8_packed_avx2(size_t N, size_t K)
{
    return (N + PANEL - 1) / PANEL * PANEL * tx_k_padded(K);
}

/* Pair k, k + 1 of column n. */
TXK_INLINE size_t pair_at(size_t n, size_t k, size_t Kp)
{
    return n / PANEL * PANEL * Kp + k / 2 * 2 * PANEL + n % PANEL * 2;
}

/* 8 columns by 8 pairs, turned: to[i] gets pair i of each column. */
static void turn_pairs(int8_t *to, const int8_t *w, size_t K)
{
    __m128i r[8], s[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        r[i] = _mm_loadu_si128((const __m128i *)(w + (size_t)i * K));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        s[2 * i] = _mm_unpacklo_epi16(r[i], r[i + 4]);
        s[2 * i + 1] = _mm_unpackhi_epi16(r[i], r[i + 4]);
    }
    /* s: pairs 0-3 and 4-7 of columns (0,4), (1,5), (2,6), (3,7). */
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        const __m128i even_low = _mm_unpacklo_epi16(s[h], s[h + 4]), even_high = _mm_unpackhi_epi16(s[h], s[h + 4]);
        const __m128i odd_low = _mm_unpacklo_epi16(s[h + 2], s[h + 6]), odd_high = _mm_unpackhi_epi16(s[h + 2], s[h + 6]);
        _mm_store_si128((__m128i *)(to + (4 * h + 0) * 2 * PANEL), _mm_unpacklo_epi16(even_low, odd_low));
        _mm_store_si128((__m128i *)(to + (4 * h + 1) * 2 * PANEL), _mm_unpackhi_epi16(even_low, odd_low));
        _mm_store_si128((__m128i *)(to + (4 * h + 2) * 2 * PANEL), _mm_unpacklo_epi16(even_high, odd_high));
        _mm_store_si128((__m128i *)(to + (4 * h + 3) * 2 * PANEL), _mm_unpackhi_epi16(even_high, odd_high));
    }
}

void txk_gemm_int8_pack_avx2(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    const size_t Kp = tx_k_padded(K), end = (n1 + PANEL - 1) / PANEL * PANEL;
    for (size_t n = n0; n < end; n += 8) {
        size_t k = 0;
        for (; n + 8 <= n1 && k + 16 <= K; k += 16)
            turn_pairs(dst + pair_at(n, k, Kp), w + n * K + k, K);
        for (; k < Kp; k++)
            for (size_t j = n; j < n + 8; j++)
                dst[pair_at(j, k, Kp) + k % 2] = j < n1 && k < K ? w[j * K + k] : 0;
    }
}

void txk_gemm_int8_unpack_avx2(int8_t *w, const int8_t *packed, size_t N, size_t K)
{
    for (size_t n = 0; n < N; n++)
        for (size_t k = 0; k < K; k++)
            w[n * K + k] = packed[pair_at(n, k, tx_k_padded(K)) + k % 2];
}

static void widen_a(char *to, const char *from, size_t K)
{
    for (size_t k = 0; k < K; k += 16)
        _mm256_store_si256((__m256i *)(to + 2 * k), _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(from + k))));
}

/* acc[i] += a pair of A[i] times the pairs of w, for one row i and one pair p (both literals). In assembly, since gcc 12 adds
 * the products of several pairs first, and spills what it then has too much of; tile.h says more on the addresses. */
#if defined(__SANITIZE_ADDRESS__)
#define PAIR_ROW(i, p)                                                                                                  \
    if (MR > i) {                                                                                                       \
        int32_t pair;                                                                                                   \
        memcpy(&pair, base[i / 3] + i % 3 * WIDE_LD + 4 * p, sizeof pair);                                              \
        const __m256i x = _mm256_set1_epi32(pair);                                                                      \
        acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(x, w0));                                              \
        acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(x, w1));                                              \
    }
#else
#define PAIR_ROW(i, p)                                                                                                        \
    if (MR > i) {                                                                                                             \
        __m256i x;                                                                                                            \
        __asm__("vpbroadcastd %c[offset](%[base]), %[x]" : [x] "=x"(x)                                                        \
                : [base] "r"(base[i / 3]), [offset] "i"(i % 3 * WIDE_LD + 4 * p), "m"(*(const char(*)[1 << 16])base[i / 3])); \
        PAIR_SUM(acc[i][0], w0)                                                                                               \
        PAIR_SUM(acc[i][1], w1)                                                                                               \
    }
#define PAIR_SUM(sum, factor)                                                                                           \
    {                                                                                                                   \
        __m256i product;                                                                                                \
        __asm__("vpmaddwd %[w], %[x], %[p]\n\tvpaddd %[p], %[c], %[c]"                                                  \
                : [c] "+x"(sum), [p] "=&x"(product) : [w] "x"(factor), [x] "x"(x));                                     \
    }
#endif

#define PAIR(p)                                                                                                         \
    {                                                                                                                   \
        const __m256i w0 = _mm256_cvtepi8_epi16(_mm_load_si128(w + 2 * p));                                             \
        const __m256i w1 = _mm256_cvtepi8_epi16(_mm_load_si128(w + 2 * p + 1));                                         \
        PAIR_ROW(0, p) PAIR_ROW(1, p) PAIR_ROW(2, p) PAIR_ROW(3, p) PAIR_ROW(4, p) PAIR_ROW(5, p)                       \
    }

/* C[MR,16] = or += A[MR,K] W[K,16]; 12 sums, two vectors of W, a broadcast and a product fill the 16 registers. */
TXK_INLINE void tile(const struct narrow_tile *t, const int MR)
{
    __m256i acc[TILE_ROWS][2];
    int32_t *c = t->c;
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++)
            acc[i][j] = t->more ? _mm256_load_si256((const __m256i *)(c + i * RUN + 8 * j)) : _mm256_setzero_si256();
    const char *base[2] = {t->a, t->a + (MR > 3 ? 3 * WIDE_LD : 0)}, *ahead = t->ahead;
    const __m128i *w = (const __m128i *)t->w;
    const size_t ahead_step = t->ahead_step;
    for (size_t k = t->K; k > 0; k -= 8) {
        for (size_t i = 0; i < ahead_step; i += 64)
            _mm_prefetch(ahead + i, _MM_HINT_T1);
        ahead += ahead_step;
        PAIR(0) PAIR(1) PAIR(2) PAIR(3)
        w += 8;
        base[0] += 16;
        base[1] += 16;
    }
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++)
            _mm256_store_si256((__m256i *)(c + i * RUN + 8 * j), acc[i][j]);
}

#define TILE(MR) static void tile_##MR(const struct narrow_tile *t) { tile(t, MR); }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
static narrow_tile_function *const tiles[TILE_ROWS] = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6};

void txk_gemm_int8_avx2(const struct tx_gemm_narrow *job)
{
    static const struct narrow_kind kind = {.size = 1, .section = SECTION_BYTES / sizeof(int16_t), .step = 8, .tiles = tiles,
                                         .widen_a = widen_a, .finish_sums = finish_int8};
    gemm_narrow(job, &kind);
}
