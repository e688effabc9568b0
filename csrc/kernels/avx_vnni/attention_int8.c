/* attention_int8 by the 256-bit vpdpbusd, which adds four products of bytes in 32 bits: scales as everywhere. */
#include "../avx2/simd.h"
#include "row.h"

enum { PAIRED = 0 };

#define FOUR_ROW_PLAIN(i, x)                                \
    acc[i][0] = _mm256_dpbusd_avx_epi32(acc[i][0], x, w0);  \
    acc[i][1] = _mm256_dpbusd_avx_epi32(acc[i][1], x, w1);
#define FOUR_ROW_AT(i, address)                                                                                      \
    {                                                                                                                \
        __m256i x;                                                                                                   \
        __asm__("vpbroadcastd " address ", %[x]"                                                                     \
                : [x] "=x"(x)                                                                                        \
                : [base] "r"(base[i / 3]), [ld] "r"(ld), "m"(*(const char(*)[1 << 16])base[i / 3]));                 \
        __asm__("%{vex%} vpdpbusd %[w], %[x], %[c]" : [c] "+x"(acc[i][0]) : [w] "x"(w0), [x] "x"(x));                \
        __asm__("%{vex%} vpdpbusd %[w], %[x], %[c]" : [c] "+x"(acc[i][1]) : [w] "x"(w1), [x] "x"(x));                \
    }
#include "../avx2/attention_int8.h"

size_t txk_attention_int8_scratch_avx_vnni(size_t Tk, size_t Dh)
{
    return attention_int8_scratch(Tk, Dh);
}

void txk_attention_int8_avx_vnni(const struct tx_attention_bf16 *job)
{
    attend_int8(job);
}
