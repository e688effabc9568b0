/* out[M, n0:n1] = epilogue(sum * (a_scale w_scale)), sum = A[M,K] W[N,K]^T in int8, exact in int32, with the 256-bit vpdpbusd
 * of CPUs that have AVX-VNNI and no AVX-512.
 *
 * The instruction multiplies unsigned by signed: W is packed as w + 128, and each row's sum begins at -128 times the sum of A's
 * row, found where the row is copied. Nothing saturates: four products of at most 255 x 127 fit, and the sums wrap and unwrap
 * as one.
 *
 * Packed W: panels of 16 columns, [N/16][Kp/4][16][4]: four k of a column side by side; Kp = tx_k_padded(K). Padding holds 128
 * (zero). avx2/gemm_narrow.h has order and method; a "widened" row of A is a copy, with -128 times its sum behind it. */
#include "../avx2/gemm_narrow.h"

static size_t at(size_t n, size_t k, size_t Kp)
{
    return n / PANEL * PANEL * Kp + k / 4 * 4 * PANEL + n % PANEL * 4 + k % 4;
}

size_t txk_gemm_int8_packed_avx_vnni(size_t N, size_t K)
{
    return (N + PANEL - 1) / PANEL * PANEL * tx_k_padded(K);
}

void txk_gemm_int8_pack_avx_vnni(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    const size_t Kp = tx_k_padded(K), end = (n1 + PANEL - 1) / PANEL * PANEL;
    for (size_t n = n0; n < end; n++) {
        size_t k = 0;
        for (; n < n1 && k + 4 <= K; k += 4) {
            uint32_t four;
            memcpy(&four, w + n * K + k, sizeof four);
            four ^= 0x80808080u;
            memcpy(dst + at(n, k, Kp), &four, sizeof four);
        }
        for (; k < Kp; k++)
            dst[at(n, k, Kp)] = (int8_t)((n < n1 && k < K ? w[n * K + k] : 0) ^ 0x80);
    }
}

void txk_gemm_int8_unpack_avx_vnni(int8_t *w, const int8_t *packed, size_t N, size_t K)
{
    for (size_t n = 0; n < N; n++)
        for (size_t k = 0; k < K; k++)
            w[n * K + k] = (int8_t)(packed[at(n, k, tx_k_padded(K))] ^ 0x80);
}

static void copy_a(char *to, const char *from, size_t K)
{
    const __m256i ones = _mm256_set1_epi8(1);
    __m256i sums = _mm256_setzero_si256();
    for (size_t k = 0; k < K; k += 32) {
        const __m256i a = _mm256_loadu_si256((const __m256i *)(from + k));
        _mm256_store_si256((__m256i *)(to + k), a);
        sums = _mm256_dpbusd_avx_epi32(sums, ones, a);
    }
    const int32_t begin = -128 * sum_of_i32x8(sums);
    memcpy(to + SECTION_BYTES, &begin, sizeof begin);
}

/* acc[i] += four of A[i] times the fours of w, for one row i and one step q (both literals). In assembly, as in
 * avx2/gemm_int8.c. */
#if defined(__SANITIZE_ADDRESS__)
#define QUAD_ROW(i, q)                                                                                                  \
    if (MR > i) {                                                                                                       \
        const __m256i x = _mm256_set1_epi32(four_bytes(base[i / 3] + i % 3 * WIDE_LD + 4 * q));                         \
        acc[i][0] = _mm256_dpbusd_avx_epi32(acc[i][0], w0, x);                                                          \
        acc[i][1] = _mm256_dpbusd_avx_epi32(acc[i][1], w1, x);                                                          \
    }
#else
#define QUAD_ROW(i, q)                                                                                                        \
    if (MR > i) {                                                                                                             \
        __m256i x;                                                                                                            \
        __asm__("vpbroadcastd %c[offset](%[base]), %[x]" : [x] "=x"(x)                                                        \
                : [base] "r"(base[i / 3]), [offset] "i"(i % 3 * WIDE_LD + 4 * q), "m"(*(const char(*)[1 << 16])base[i / 3])); \
        __asm__("%{vex%} vpdpbusd %[x], %[w], %[c]" : [c] "+x"(acc[i][0]) : [w] "x"(w0), [x] "x"(x));                         \
        __asm__("%{vex%} vpdpbusd %[x], %[w], %[c]" : [c] "+x"(acc[i][1]) : [w] "x"(w1), [x] "x"(x));                         \
    }
#endif

#define QUAD(q)                                                                                                         \
    {                                                                                                                   \
        const __m256i w0 = _mm256_load_si256(w + 2 * q), w1 = _mm256_load_si256(w + 2 * q + 1);                         \
        QUAD_ROW(0, q) QUAD_ROW(1, q) QUAD_ROW(2, q) QUAD_ROW(3, q) QUAD_ROW(4, q) QUAD_ROW(5, q)                       \
    }

/* C[MR,16] = or += A[MR,K] W[K,16]; 12 sums, two vectors of W and a broadcast fill 15 of the 16 registers. */
TXK_INLINE void tile(const struct narrow_tile *t, const int MR)
{
    __m256i acc[TILE_ROWS][2];
    int32_t *c = t->c;
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            acc[i][j] = _mm256_set1_epi32(four_bytes(t->a + i * WIDE_LD + SECTION_BYTES));
            if (t->more)
                acc[i][j] = _mm256_add_epi32(acc[i][j], _mm256_load_si256((const __m256i *)(c + i * RUN + 8 * j)));
        }
    const char *base[2] = {t->a, t->a + (MR > 3 ? 3 * WIDE_LD : 0)}, *ahead = t->ahead;
    const __m256i *w = (const __m256i *)t->w;
    const size_t ahead_step = t->ahead_step;
    for (size_t k = t->K; k > 0; k -= 16) {
        ahead = fetch_ahead(ahead, ahead_step);
        QUAD(0) QUAD(1) QUAD(2) QUAD(3)
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

void txk_gemm_int8_avx_vnni(const struct tx_gemm_narrow *job)
{
    static const struct narrow_kind kind = {.size = 1, .section = SECTION_BYTES, .step = 16, .rows = TILE_ROWS,
                                            .panel = PANEL, .tiles = tiles, .place_a = copy_a,
                                            .epilogue = txk_epilogue_f32_avx2, .finish_sums = finish_int8};
    gemm_narrow(job, &kind);
}
