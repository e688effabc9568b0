/* gemm_int8 with vpdpbusd: avx512/gemm_narrow.h, four elements of K a step.
 *
 * The instruction multiplies unsigned by signed, so W is packed as w + 128 and the sums of a row begin at -128 times the sum of
 * that row of A. Nothing saturates: four products of at most 255 x 127 fit, and the sums wrap and unwrap as one. */
#include <immintrin.h>

#define NARROW_INT8 1
#if defined(__SANITIZE_ADDRESS__)
#define NARROW_DOT(sum, a, w) sum = _mm512_dpbusd_epi32(sum, w, a);
#else
#define NARROW_DOT(sum, a, w) __asm__("vpdpbusd %[u], %[v], %[s]" : [s] "+v"(sum) : [u] "v"(a), [v] "v"(w));
#endif
#include "../avx512/gemm_narrow.h"

static void begin(int32_t *begins, const char *a, size_t lda, size_t rows, size_t Kb)
{
    for (size_t r = 0; r < rows; r++, a += lda) {
        __m512i sum = _mm512_setzero_si512();
        for (size_t k = 0; k < Kb; k += 64)
            sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_load_si512(a + k));
        begins[r] = -128 * _mm512_reduce_add_epi32(sum);
    }
}

void txk_gemm_int8_avx512_vnni(const struct tx_gemm_narrow *job)
{
    gemm_narrow(job, begin);
}
