/* attention_int8 by vpmaddubsw, which multiplies bytes and adds pairs of products in 16 bits. */
#include <immintrin.h>

#include "row.h"

enum { PAIRED = 1 };

#if defined(__SANITIZE_ADDRESS__)
#define ADD_PRODUCT(sum, line, row) \
    (sum) = _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(line, row), _mm512_set1_epi16(1)))
#else
#define ADD_PRODUCT(sum, line, row)                                                       \
    {                                                                                     \
        __m512i pairs;                                                                    \
        __asm__("vpmaddubsw %[r], %[l], %[p]\n\t"                                         \
                "vpmaddwd %[ones], %[p], %[p]\n\t"                                        \
                "vpaddd %[p], %[s], %[s]"                                                 \
                : [s] "+v"(sum), [p] "=&v"(pairs)                                         \
                : [l] "v"(line), [r] "v"(row), [ones] "v"(_mm512_set1_epi16(1)));         \
    }
#endif
#include "attention_int8.h"

size_t txk_attention_int8_scratch_avx512(size_t Tk, size_t Dh)
{
    return attention_int8_scratch(Tk, Dh);
}

void txk_attention_int8_avx512(const struct tx_attention_bf16 *job)
{
    attend_int8(job);
}
