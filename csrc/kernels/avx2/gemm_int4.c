/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) with weights of 4 bits: ../gemm_int4.h, on the bytes of gemm_int8.c, pairs of K of
 * 16 columns. A line is 32 bytes: columns 0 to 7 in the low nibbles of 16 bytes, 8 to 15 in the high ones. */
#include "../gemm_int4.h"
#include "row.h"
#include "simd.h"

static void expand(char *to, const uint8_t *scales, const uint8_t *nibbles, size_t Kp)
{
    const __m256i low = _mm256_set1_epi8(15);
    for (size_t g = 0; g < Kp / TX_INT4_GROUP; g++) {
        const __m256i scale = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(scales + 16 * g)));
        const __m256i zero = _mm256_mullo_epi16(scale, _mm256_set1_epi16(0x0808));
        for (size_t line = 0; line < TX_INT4_GROUP / 2; line++, to += 32, nibbles += 16) {
            const __m128i x = _mm_loadu_si128((const __m128i *)nibbles);
            const __m256i q = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(x, 4), x), low);
            _mm256_store_si256((__m256i *)to, _mm256_sub_epi8(_mm256_mullo_epi16(q, scale), zero));
        }
    }
}

static const struct txk_int4 layout = {.nr = 16, .side = 2, .expand = expand, .gemm_int8 = txk_gemm_int8_avx2};
TXK_INT4_PACKING(avx2, layout)

void txk_gemm_int4_avx2(const struct tx_gemm_narrow *job)
{
    txk_int4_gemm(&layout, job);
}
