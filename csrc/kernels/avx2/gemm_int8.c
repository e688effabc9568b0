/* out[M, n0:n1] = epilogue(sum * (a_scale w_scale)), sum = A[M,K] W[N,K]^T in int8, exact in int32.
 *
 * AVX2 multiplies unsigned by signed bytes, vpmaddubsw, and adds pairs of products in 16 bits, where they may not fit. Of
 * weights that gemm_int8_fit has rounded even four do, with A as a + 128: of the four weights that meet there, the positive
 * ones are at most FIT together and so are the negative ones, and 255 x 128 is below 2^15. So two vpmaddubsw are added, widened
 * by vpmaddwd with ones and added to the sum: five instructions for 64 products, where float32 needs eight. The sum of each
 * column is then 128 times that of its weights too large, which is known when they are packed. Of eight k in a row, 0, 1, 4 and
 * 5 meet, and 2, 3, 6 and 7. A Gaussian's rows are left 7.2 of 8 bits.
 *
 * Other weights may be anything, and take a tile that moves their signs over to A, where a pair always fits: eight
 * instructions. Both are exact for A within 127, so which of them multiplies changes no bit.
 *
 * Packed W: panels of 16 columns, [N/16][Kp/4][16][4]: four k of a column side by side; Kp = tx_k_padded(K), zero padded.
 * Behind all panels their heads. gemm_narrow.h has order and method; sections are of half a KB of A, so that 128 KB of W are
 * used at a time: CPUs of AVX2 alone have an L2 of 256 or 512 KB. */
#include "gemm_int8.h"
#include "quantize.h"

size_t txk_gemm_int8_packed_avx2(size_t N, size_t K)
{
    return heads_at(N, K) + (N + PANEL - 1) / PANEL * sizeof(struct panel_head);
}

/* Four k of column n. */
TXK_INLINE size_t quad_at(size_t n, size_t k, size_t Kp)
{
    return n / PANEL * PANEL * Kp + k / 4 * 4 * PANEL + n % PANEL * 4;
}

/* Bytes k.. of a row of K times factor, to nearest even; 0 past it. */
TXK_INLINE __m256i shrunk(const int8_t *w, size_t k, size_t K, float factor)
{
    int8_t bytes[32] = {0};
    __m256 x[4];
    memcpy(bytes, w + k, K - k < 32 ? K - k : 32);
    for (int j = 0; j < 4; j++)
        x[j] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(bytes + 8 * j))));
    return int8x32(x, factor);
}

/* The most that four of a row's weights that meet in 16 bits have together, positive or negative, once they are shrunk. */
static int most_in_16_bits(const int8_t *w, size_t K, float factor)
{
    const __m256i ones = _mm256_set1_epi8(1), zero = _mm256_setzero_si256();
    __m256i high = zero, low = zero;
    for (size_t k = 0; k < K; k += 32) {
        const __m256i x = shrunk(w, k, K, factor);
        const __m256i up = _mm256_maddubs_epi16(ones, _mm256_max_epi8(x, zero));
        const __m256i down = _mm256_maddubs_epi16(ones, _mm256_min_epi8(x, zero));
        high = _mm256_max_epi16(high, _mm256_add_epi16(up, _mm256_shuffle_epi32(up, 0xb1)));
        low = _mm256_min_epi16(low, _mm256_add_epi16(down, _mm256_shuffle_epi32(down, 0xb1)));
    }
    int16_t most[16], result = 0;
    _mm256_storeu_si256((__m256i *)most, _mm256_max_epi16(high, _mm256_sub_epi16(zero, low)));
    for (int i = 0; i < 16; i++)
        result = most[i] > result ? most[i] : result;
    return result;
}

void txk_gemm_int8_fit_avx2(int8_t *w, float *scale, size_t N, size_t K)
{
    for (size_t n = 0; n < N; n++, w += K) {
        float factor = 1;
        /* Rounding may leave a little more than the factor says. */
        for (int most; (most = most_in_16_bits(w, K, factor)) > FIT;)
            factor *= (float)FIT / (float)most;
        for (size_t k = 0; factor < 1 && k < K; k += 32) {
            int8_t bytes[32];
            _mm256_storeu_si256((__m256i *)bytes, shrunk(w, k, K, factor));
            memcpy(w + k, bytes, K - k < 32 ? K - k : 32);
        }
        scale[n] /= factor;
    }
}

void txk_gemm_int8_pack_avx2(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1)
{
    const size_t Kp = tx_k_padded(K), end = (n1 + PANEL - 1) / PANEL * PANEL;
    struct panel_head *heads = heads_of(dst, N, K);
    for (size_t n = n0; n < end; n++) {
        struct panel_head *head = heads + n / PANEL;
        const int8_t *row = w + n * K;
        int32_t sum = 0;
        size_t k = 0;
        for (; n < n1 && k + 4 <= K; k += 4)
            memcpy(dst + quad_at(n, k, Kp), row + k, 4);
        for (; k < Kp; k++)
            dst[quad_at(n, k, Kp) + k % 4] = n < n1 && k < K ? row[k] : 0;
        for (k = 0; n < n1 && k < K; k++)
            sum += row[k];
        head->begin[n % PANEL] = -128 * sum;
        head->fits = (n % PANEL == 0 || head->fits) && (n >= n1 || most_in_16_bits(row, K, 1) <= FIT);
    }
}

void txk_gemm_int8_unpack_avx2(int8_t *w, const int8_t *packed, size_t N, size_t K)
{
    for (size_t n = 0; n < N; n++)
        for (size_t k = 0; k < K; k++)
            w[n * K + k] = packed[quad_at(n, k, tx_k_padded(K)) + k % 4];
}

/* ---- weights with the bound ---- */

enum { FIT_ROWS = 4, ANY_ROWS = 5 };

/* acc[i] += eight of A[i] times the eights of w, for one row i and one step e (both literals). In assembly, since gcc 12 adds
 * the products of several rows first, and spills what it then has too much of; tile.h says more on the addresses. */
#if defined(__SANITIZE_ADDRESS__)
#define EIGHT_ROW(i, e)                                                                                                     \
    if (MR > i) {                                                                                                           \
        const __m256i x = _mm256_set1_epi32(four_bytes(base + i * WIDE_LD + 8 * e));                                        \
        const __m256i y = _mm256_set1_epi32(four_bytes(base + i * WIDE_LD + 8 * e + 4));                                    \
        for (int j = 0; j < 2; j++) {                                                                                       \
            const __m256i sum = _mm256_add_epi16(_mm256_maddubs_epi16(x, _mm256_load_si256(w + 4 * e + j)),                 \
                                                 _mm256_maddubs_epi16(y, _mm256_load_si256(w + 4 * e + 2 + j)));            \
            acc[i][j] = _mm256_add_epi32(acc[i][j], _mm256_madd_epi16(sum, ones));                                          \
        }                                                                                                                   \
    }
#define EIGHT_W(e)
#else
#define EIGHT_ROW(i, e)                                                                                       \
    if (MR > i) {                                                                                             \
        __m256i x, y, p, q;                                                                                   \
        __asm__("vpbroadcastd %c[offset](%[base]), %[x]\n\t"                                                  \
                "vpbroadcastd 4+%c[offset](%[base]), %[y]\n\t"                                                \
                "vpmaddubsw %[w00], %[x], %[p]\n\t"                                                           \
                "vpmaddubsw %[w01], %[x], %[x]\n\t"                                                           \
                "vpmaddubsw %[w10], %[y], %[q]\n\t"                                                           \
                "vpmaddubsw %c[last](%[w]), %[y], %[y]\n\t"                                                   \
                "vpaddw %[q], %[p], %[p]\n\t"                                                                 \
                "vpaddw %[y], %[x], %[x]\n\t"                                                                 \
                "vpmaddwd %[ones], %[p], %[p]\n\t"                                                            \
                "vpmaddwd %[ones], %[x], %[x]\n\t"                                                            \
                "vpaddd %[p], %[c0], %[c0]\n\t"                                                               \
                "vpaddd %[x], %[c1], %[c1]"                                                                   \
                : [c0] "+x"(acc[i][0]), [c1] "+x"(acc[i][1]), [x] "=&x"(x), [y] "=&x"(y), [p] "=&x"(p),       \
                  [q] "=&x"(q)                                                                                \
                : [base] "r"(base), [offset] "i"(i * WIDE_LD + 8 * e), [w00] "x"(w00), [w01] "x"(w01),        \
                  [w10] "x"(w10), [w] "r"(w), [last] "i"(32 * (4 * e + 3)), [ones] "x"(ones),                 \
                  "m"(*(const char(*)[1 << 16])base), "m"(*(const char(*)[1 << 16])w));                       \
    }
#define EIGHT_W(e)                                                                                                        \
    const __m256i w00 = _mm256_load_si256(w + 4 * e), w01 = _mm256_load_si256(w + 4 * e + 1);                             \
    const __m256i w10 = _mm256_load_si256(w + 4 * e + 2);
#endif

#define EIGHT(e)                                                        \
    {                                                                   \
        EIGHT_W(e)                                                      \
        EIGHT_ROW(0, e) EIGHT_ROW(1, e) EIGHT_ROW(2, e) EIGHT_ROW(3, e) \
    }

/* Tiles begin alike and end alike. */
#define BEGIN_SUMS(MR)                                                                                                      \
    _Pragma("GCC unroll 5") for (int i = 0; i < MR; i++)                                                                    \
        _Pragma("GCC unroll 2") for (int j = 0; j < 2; j++)                                                                 \
            acc[i][j] = t->more ? _mm256_load_si256((const __m256i *)(c + i * RUN + 8 * j)) : _mm256_setzero_si256();
#define END_SUMS(MR)                                                                                                        \
    _Pragma("GCC unroll 5") for (int i = 0; i < MR; i++)                                                                    \
        _Pragma("GCC unroll 2") for (int j = 0; j < 2; j++)                                                                 \
            _mm256_store_si256((__m256i *)(c + i * RUN + 8 * j), acc[i][j]);

/* C[MR,16] = or += A[MR,K] W[K,16]: 8 sums, three of four vectors of W, ones and four at work fill the 16 registers. */
TXK_INLINE void fit_tile(const struct narrow_tile *t, const int MR)
{
    __m256i acc[FIT_ROWS][2];
    int32_t *c = t->c;
    BEGIN_SUMS(MR)
    const char *base = t->a, *ahead = t->ahead;
    const __m256i *w = (const __m256i *)t->w, ones = _mm256_set1_epi16(1);
    const size_t ahead_step = t->ahead_step;
    for (size_t k = t->K; k > 0; k -= 16) {
        ahead = fetch_ahead(ahead, ahead_step);
        EIGHT(0) EIGHT(1)
        w += 8;
        base += 16;
    }
    END_SUMS(MR)
}

#define FIT_TILE(MR) static void fit_tile_##MR(const struct narrow_tile *t) { fit_tile(t, MR); }
FIT_TILE(1) FIT_TILE(2) FIT_TILE(3) FIT_TILE(4)

/* ---- any weights ---- */

/* acc[i] += four of A[i] times the fours of w, for one row i and one step q (both literals). */
#if defined(__SANITIZE_ADDRESS__)
#define FOUR_ROW(i, q)                                                                                                      \
    if (MR > i) {                                                                                                           \
        const __m256i x = _mm256_set1_epi32(four_bytes(base + i * WIDE_LD + 4 * q));                                        \
        const __m256i p0 = _mm256_maddubs_epi16(m0, _mm256_sign_epi8(x, w0));                                               \
        const __m256i p1 = _mm256_maddubs_epi16(m1, _mm256_sign_epi8(x, w1));                                               \
        acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(p0, *(const __m256i *)ones));                             \
        acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(p1, *(const __m256i *)ones));                             \
    }
#else
#define FOUR_ROW(i, q)                                                                                                      \
    if (MR > i) {                                                                                                           \
        __m256i x, y;                                                                                                       \
        __asm__("vpbroadcastd %c[offset](%[base]), %[x]\n\t"                                                                \
                "vpsignb %[w0], %[x], %[y]\n\t"                                                                             \
                "vpsignb %[w1], %[x], %[x]\n\t"                                                                             \
                "vpmaddubsw %[y], %[m0], %[y]\n\t"                                                                          \
                "vpmaddubsw %[x], %[m1], %[x]\n\t"                                                                          \
                "vpmaddwd %[ones], %[y], %[y]\n\t"                                                                          \
                "vpmaddwd %[ones], %[x], %[x]\n\t"                                                                          \
                "vpaddd %[y], %[c0], %[c0]\n\t"                                                                             \
                "vpaddd %[x], %[c1], %[c1]"                                                                                 \
                : [c0] "+x"(acc[i][0]), [c1] "+x"(acc[i][1]), [x] "=&x"(x), [y] "=&x"(y)                                    \
                : [base] "r"(base), [offset] "i"(i * WIDE_LD + 4 * q), [w0] "x"(w0), [w1] "x"(w1), [m0] "x"(m0),            \
                  [m1] "x"(m1), [ones] "m"(*(const __m256i *)ones), "m"(*(const char(*)[1 << 16])base));                    \
    }
#endif

#define FOUR(q)                                                                                                             \
    {                                                                                                                       \
        const __m256i w0 = _mm256_load_si256(w + 2 * q), w1 = _mm256_load_si256(w + 2 * q + 1);                             \
        const __m256i m0 = _mm256_abs_epi8(w0), m1 = _mm256_abs_epi8(w1);                                                   \
        FOUR_ROW(0, q) FOUR_ROW(1, q) FOUR_ROW(2, q) FOUR_ROW(3, q) FOUR_ROW(4, q)                                          \
    }

/* C[MR,16] = or += A[MR,K] W[K,16]: 10 sums, two vectors of W and their magnitudes, and two at work. */
TXK_INLINE void any_tile(const struct narrow_tile *t, const int MR)
{
    __m256i acc[ANY_ROWS][2];
    int32_t *c = t->c;
    BEGIN_SUMS(MR)
    static const int16_t ones[16] __attribute__((aligned(32))) = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const char *base = t->a, *ahead = t->ahead;
    const __m256i *w = (const __m256i *)t->w;
    const size_t ahead_step = t->ahead_step;
    for (size_t k = t->K; k > 0; k -= 16) {
        ahead = fetch_ahead(ahead, ahead_step);
        FOUR(0) FOUR(1) FOUR(2) FOUR(3)
        w += 8;
        base += 16;
    }
    END_SUMS(MR)
}

#define ANY_TILE(MR) static void any_tile_##MR(const struct narrow_tile *t) { any_tile(t, MR); }
ANY_TILE(1) ANY_TILE(2) ANY_TILE(3) ANY_TILE(4) ANY_TILE(5)

void txk_gemm_bytes_avx2(const struct tx_gemm_narrow *job)
{
    static narrow_tile_function *const tiles[ANY_ROWS] = {any_tile_1, any_tile_2, any_tile_3, any_tile_4, any_tile_5};
    static const struct narrow_kind kind = {.size = 1, .section = SECTION_BYTES / 2, .step = 16, .rows = ANY_ROWS,
                                            .panel = PANEL, .tiles = tiles, .place_a = copy_bytes,
                                            .epilogue = txk_epilogue_f32_avx2, .finish_sums = finish_int8};
    gemm_narrow(job, &kind);
}

void txk_gemm_int8_avx2(const struct tx_gemm_narrow *job)
{
    static narrow_tile_function *const tiles[FIT_ROWS] = {fit_tile_1, fit_tile_2, fit_tile_3, fit_tile_4};
    static const struct narrow_kind kind = {.size = 1, .section = SECTION_BYTES / 2, .step = 16, .rows = FIT_ROWS,
                                            .panel = PANEL, .tiles = tiles, .place_a = unsigned_a,
                                            .epilogue = txk_epilogue_f32_avx2, .finish_sums = finish_fit};
    if (all_fit(job))
        gemm_narrow(job, &kind);
    else
        txk_gemm_bytes_avx2(job);
}
