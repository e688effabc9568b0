/* Packed weights of gemm_bf16 and gemm_int8, one layout for every row from AVX-512 on, in int8 from VNNI on: panels of 32
 * columns, the last one filled up with zeros, [N/32][Kp/2][32][2] in bfloat16 and [N/32][Kp/4][32][4] in int8, Kp =
 * tx_k_padded(K). Seen as dwords (2 or 4 elements of K) a panel is a transposed matrix: that is how vpdpbusd and vdpbf16ps take
 * a line of 16 columns, and tiles 16 lines. "unsigned": int8 as w + 128, for the row whose instruction takes one factor so. */
#include <string.h>

#include "row.h"
#include "simd_narrow.h"

enum { NR = 32, GROUP = 16 };

size_t txk_gemm_narrow_packed_avx512(size_t N, size_t K)
{
    return (N + NR - 1) / NR * NR * tx_k_padded(K);
}

/* 32 elements from k on of a row of W in bfloat16, zeros behind K. */
TXK_INLINE __m512i row_bf16(const float *w, size_t k, size_t K)
{
    const __mmask16 low = k < K ? lanes_f32x16(K - k) : 0, high = k + 16 < K ? lanes_f32x16(K - k - 16) : 0;
    const __m256i first = bf16_of_f32x16(_mm512_maskz_loadu_ps(low, w + k)),
                  second = bf16_of_f32x16(_mm512_maskz_loadu_ps(high, w + k + 16));
    return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
}

TXK_INLINE __m512i row_int8(const int8_t *w, size_t k, size_t K)
{
    const __mmask64 lanes = k >= K ? 0 : K - k >= 64 ? ~0ull : (1ull << (K - k)) - 1;
    return _mm512_maskz_loadu_epi8(lanes, w + k);
}

TXK_INLINE void pack(char *dst, const void *w, size_t K, size_t n0, size_t n1, const int int8, const int flip)
{
    const size_t size = int8 ? 1 : 2, step = 64 / size, Kp = tx_k_padded(K);
    for (size_t n = n0; n < n1; n += GROUP) {
        char *to = dst + n / NR * NR * Kp * size + n % NR * 4;
        for (size_t k = 0; k < Kp; k += step) {
            __m512i r[GROUP];
            for (size_t j = 0; j < GROUP; j++) {
                if (n + j >= n1)
                    r[j] = _mm512_setzero_si512();
                else
                    r[j] =
                        int8 ? row_int8((const int8_t *)w + (n + j) * K, k, K) : row_bf16((const float *)w + (n + j) * K, k, K);
            }
            if (flip)
                for (size_t j = 0; j < GROUP; j++)
                    r[j] = _mm512_xor_si512(r[j], _mm512_set1_epi8((char)128));
            transpose_32x16x16(r);
            for (size_t j = 0; j < GROUP; j++)
                _mm512_store_si512(to + (k * size / 4 + j) * 4 * NR, r[j]);
        }
    }
    /* The second half of a panel whose first half holds the last columns. */
    if (n1 > n0 && (n1 - 1) % NR < GROUP)
        for (size_t line = 0; line < Kp * size / 4; line++)
            memset(dst + (n1 - 1) / NR * NR * Kp * size + line * 4 * NR + 4 * GROUP, 0, 4 * GROUP);
}

void txk_gemm_bf16_pack_avx512(uint16_t *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    pack((char *)dst, w, K, n0, n1, 0, 0);
}

void txk_gemm_int8_pack_avx512(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    pack((char *)dst, w, K, n0, n1, 1, 0);
}

void txk_gemm_int8_pack_unsigned_avx512(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    pack((char *)dst, w, K, n0, n1, 1, 1);
}

void txk_gemm_bf16_unpack_avx512(uint16_t *w, const uint16_t *packed, size_t N, size_t K)
{
    for (size_t n = 0; n < N; n++) {
        const uint16_t *from = packed + n / NR * NR * tx_k_padded(K) + n % NR * 2;
        for (size_t k = 0; k < K; k++)
            w[n * K + k] = from[k / 2 * 2 * NR + k % 2];
    }
}

static void unpack_int8(int8_t *w, const int8_t *packed, size_t N, size_t K, int8_t flip)
{
    for (size_t n = 0; n < N; n++) {
        const int8_t *from = packed + n / NR * NR * tx_k_padded(K) + n % NR * 4;
        for (size_t k = 0; k < K; k++)
            w[n * K + k] = (int8_t)(from[k / 4 * 4 * NR + k % 4] ^ flip);
    }
}

void txk_gemm_int8_unpack_avx512(int8_t *w, const int8_t *packed, size_t N, size_t K)
{
    unpack_int8(w, packed, N, K, 0);
}

void txk_gemm_int8_unpack_unsigned_avx512(int8_t *w, const int8_t *packed, size_t N, size_t K)
{
    unpack_int8(w, packed, N, K, (int8_t)0x80);
}
