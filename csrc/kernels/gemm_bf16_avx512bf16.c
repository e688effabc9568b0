/* gemm_bf16 with vdpbf16ps: gemm_low_avx512.h, two elements of K a step. Sums in float32, to nearest even, subnormals flushed. */
#include <immintrin.h>

#define LOW_INT8 0
#if defined(__SANITIZE_ADDRESS__)
#define LOW_DOT(sum, a, w) sum = (__m512i)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)w);
#else
#define LOW_DOT(sum, a, w) __asm__("vdpbf16ps %[v], %[u], %[s]" : [s] "+v"(sum) : [u] "v"(a), [v] "v"(w));
#endif
#include "gemm_low_avx512.h"

void txk_gemm_bf16_avx512bf16(const struct tx_gemm_low *job)
{
    gemm_low(job, NULL);
}
