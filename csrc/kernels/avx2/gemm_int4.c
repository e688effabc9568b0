/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) with weights of 4 bits: ../gemm_int4.h, on the bytes of gemm_int8.c, four k of 16
 * columns. A line is 64 bytes: columns 0 to 7 in the low nibbles of 32 bytes, 8 to 15 in the high ones. */
#include "../gemm_int4.h"
#include "row.h"
#include "simd.h"

static void expand(char *to, const uint8_t *scales, const uint8_t *nibbles, size_t Kp)
{
    const __m256i low = _mm256_set1_epi8(15);
    for (size_t g = 0; g < Kp / TX_INT4_GROUP; g++) {
        __m256i scale[2], zero[2];
        for (int h = 0; h < 2; h++) {
            const __m256i s = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(scales + 16 * g + 8 * h)));
            scale[h] = _mm256_or_si256(s, _mm256_slli_epi32(s, 16));
            zero[h] = _mm256_mullo_epi16(scale[h], _mm256_set1_epi16(0x0808));
        }
        for (size_t line = 0; line < TX_INT4_GROUP / 4; line++, to += 64, nibbles += 32) {
            const __m256i x = _mm256_loadu_si256((const __m256i *)nibbles);
            const __m256i first = _mm256_and_si256(x, low), second = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
            _mm256_store_si256((__m256i *)to, _mm256_sub_epi8(_mm256_mullo_epi16(first, scale[0]), zero[0]));
            _mm256_store_si256((__m256i *)(to + 32), _mm256_sub_epi8(_mm256_mullo_epi16(second, scale[1]), zero[1]));
        }
    }
}

static const struct txk_int4 layout = {.nr = 16, .side = 4, .expand = expand, .gemm_int8 = txk_gemm_bytes_avx2};
TXK_INT4_PACKING(avx2, layout)

void txk_gemm_int4_avx2(const struct tx_gemm_narrow *job)
{
    txk_int4_gemm(&layout, job);
}
