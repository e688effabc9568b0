/* For gemm_int4 of avx2, avx_vnni and avx512: a panel's bytes from its nibbles, four k of 16 columns a line. A line of nibbles
 * is 32 bytes: columns 0 to 7 in the low ones, 8 to 15 in the high ones. ../gemm_int4.h says more. */
#ifndef TXK_AVX2_EXPAND_INT4_H
#define TXK_AVX2_EXPAND_INT4_H

#include "simd.h"

/* Bytes are s q + plus. */
TXK_INLINE void expand_int4_fours(char *to, const uint8_t *scales, const uint8_t *nibbles, size_t Kp, const int plus)
{
    const __m256i low = _mm256_set1_epi8(15);
    for (size_t g = 0; g < Kp / TX_INT4_GROUP; g++) {
        __m256i scale[2], zero[2];
        for (int h = 0; h < 2; h++) {
            const __m256i s = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(scales + 16 * g + 8 * h)));
            scale[h] = _mm256_or_si256(s, _mm256_slli_epi32(s, 16));
            zero[h] = _mm256_sub_epi8(_mm256_set1_epi8((char)plus), _mm256_mullo_epi16(scale[h], _mm256_set1_epi16(0x0808)));
        }
        for (size_t line = 0; line < TX_INT4_GROUP / 4; line++, to += 64, nibbles += 32) {
            const __m256i x = _mm256_loadu_si256((const __m256i *)nibbles);
            const __m256i first = _mm256_and_si256(x, low), second = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
            _mm256_store_si256((__m256i *)to, _mm256_add_epi8(_mm256_mullo_epi16(first, scale[0]), zero[0]));
            _mm256_store_si256((__m256i *)(to + 32), _mm256_add_epi8(_mm256_mullo_epi16(second, scale[1]), zero[1]));
        }
    }
}

#endif
