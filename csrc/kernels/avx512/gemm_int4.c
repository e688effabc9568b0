/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) with weights of 4 bits: ../gemm_int4.h, on the bytes of gemm_int8.c. */
#include "../gemm_int4.h"
#include "../avx2/expand_int4.h"
#include "row.h"

static void expand(char *to, const uint8_t *scales, const uint8_t *nibbles, size_t Kp)
{
    expand_int4_fours(to, scales, nibbles, Kp, 0);
}

static const struct txk_int4 layout = {.nr = 16, .side = 4, .expand = expand, .gemm_int8 = txk_gemm_bytes_avx512};
TXK_INT4_PACKING(avx512, layout)

void txk_gemm_int4_avx512(const struct tx_gemm_narrow *job)
{
    txk_int4_gemm(&layout, job);
}
