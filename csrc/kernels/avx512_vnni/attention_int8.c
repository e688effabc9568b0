/* attention_int8 with vpdpbusd, which adds four products of bytes in 32 bits: scales as everywhere. */
#include <immintrin.h>

#include "row.h"

enum { PAIRED = 0 };

#if defined(__SANITIZE_ADDRESS__)
#define ADD_PRODUCT(sum, line, row) (sum) = _mm512_dpbusd_epi32(sum, line, row)
#else
#define ADD_PRODUCT(sum, line, row) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(line), "v"(row))
#endif
#include "../avx512/attention_int8.h"

size_t txk_attention_int8_scratch_avx512_vnni(size_t Tk, size_t Dh)
{
    return attention_int8_scratch(Tk, Dh);
}

void txk_attention_int8_avx512_vnni(const struct tx_attention_bf16 *job)
{
    attend_int8(job);
}
