/* attention_int8 by vpmaddubsw, which multiplies bytes and adds pairs of products in 16 bits. */
#include "row.h"
#include "simd.h"

enum { PAIRED = 1 };

static const int16_t ones[16] __attribute__((aligned(32))) = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

#define FOUR_ROW_PLAIN(i, x)                                                                                         \
    acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(_mm256_maddubs_epi16(x, w0), *(const __m256i *)ones)); \
    acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(_mm256_maddubs_epi16(x, w1), *(const __m256i *)ones));
#define FOUR_ROW_AT(i, address)                                                                                      \
    {                                                                                                                \
        __m256i x, p;                                                                                                \
        __asm__("vpbroadcastd " address ", %[x]\n\t"                                                                 \
                "vpmaddubsw %[w0], %[x], %[p]\n\t"                                                                   \
                "vpmaddubsw %[w1], %[x], %[x]\n\t"                                                                   \
                "vpmaddwd %[ones], %[p], %[p]\n\t"                                                                   \
                "vpmaddwd %[ones], %[x], %[x]\n\t"                                                                   \
                "vpaddd %[p], %[c0], %[c0]\n\t"                                                                      \
                "vpaddd %[x], %[c1], %[c1]"                                                                          \
                : [c0] "+x"(acc[i][0]), [c1] "+x"(acc[i][1]), [x] "=&x"(x), [p] "=&x"(p)                             \
                : [base] "r"(base[i / 3]), [ld] "r"(ld), [w0] "x"(w0), [w1] "x"(w1), [ones] "m"(*(const __m256i *)ones), \
                  "m"(*(const char(*)[1 << 16])base[i / 3]));                                                        \
    }
#include "attention_int8.h"

size_t txk_attention_int8_scratch_avx2(size_t Tk, size_t Dh)
{
    return attention_int8_scratch(Tk, Dh);
}

void txk_attention_int8_avx2(const struct tx_attention_bf16 *job)
{
    attend_int8(job);
}
