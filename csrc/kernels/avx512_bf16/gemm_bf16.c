/* gemm_bf16 with vdpbf16ps: avx512/gemm_narrow.h, two elements of K a step. Sums in float32, to nearest even, subnormals
 * flushed. */
#include <immintrin.h>

#define NARROW_INT8 0
#if defined(__SANITIZE_ADDRESS__)
#define NARROW_DOT(sum, a, w) sum = (__m512i)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)w);
#else
#define NARROW_DOT(sum, a, w) __asm__("vdpbf16ps %[v], %[u], %[s]" : [s] "+v"(sum) : [u] "v"(a), [v] "v"(w));
#endif
#include "../avx512/gemm_narrow.h"

void txk_gemm_bf16_avx512_bf16(const struct tx_gemm_narrow *job)
{
    gemm_narrow(job, NULL);
}
