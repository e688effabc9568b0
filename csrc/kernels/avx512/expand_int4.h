/* A panel of 32 columns from nibbles to bytes, four k of a column side by side (pack_narrow.c), for ../gemm_int4.h. A line is
 * 128 bytes: columns 0 to 15 in the low nibbles of 64 bytes, 16 to 31 in the high ones. `flip`: the bytes become w + 128. */
#ifndef TXK_AVX512_EXPAND_INT4_H
#define TXK_AVX512_EXPAND_INT4_H

#include "../gemm_int4.h"
#include "simd.h"

struct int4_group {
    __m512i scale[2], zero[2]; /* in words, and in bytes what then moves q + 8 to q */
};

TXK_INLINE struct int4_group int4_group(const uint8_t *scales, const int flip)
{
    struct int4_group group;
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        const __m512i s = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(scales + 16 * h)));
        group.scale[h] = _mm512_or_si512(s, _mm512_slli_epi32(s, 16));
        group.zero[h] = _mm512_sub_epi8(_mm512_set1_epi8((char)(flip ? 128 : 0)),
                                        _mm512_mullo_epi16(group.scale[h], _mm512_set1_epi16(0x0808)));
    }
    return group;
}

TXK_INLINE __m512i int4_left(__m512i x, struct int4_group group)
{
    const __m512i q = _mm512_and_si512(x, _mm512_set1_epi8(15));
    return _mm512_add_epi8(_mm512_mullo_epi16(q, group.scale[0]), group.zero[0]);
}

TXK_INLINE __m512i int4_right(__m512i x, struct int4_group group)
{
    const __m512i q = _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15));
    return _mm512_add_epi8(_mm512_mullo_epi16(q, group.scale[1]), group.zero[1]);
}

TXK_INLINE void expand_int4(char *to, const uint8_t *scales, const uint8_t *nibbles, size_t Kp, const int flip)
{
    for (size_t g = 0; g < Kp / TX_INT4_GROUP; g++) {
        const struct int4_group group = int4_group(scales + 32 * g, flip);
#pragma GCC unroll 4
        for (size_t line = 0; line < TX_INT4_GROUP / 4; line++, to += 128, nibbles += 64) {
            const __m512i x = _mm512_load_si512(nibbles);
            _mm512_store_si512(to, int4_left(x, group));
            _mm512_store_si512(to + 64, int4_right(x, group));
        }
    }
}

#endif
