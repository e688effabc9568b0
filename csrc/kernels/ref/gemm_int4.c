/* C[M,N] = epilogue(A[M,K] W[N,K]^T) with weights of 4 bits, the version to read first; ../gemm_int4.h has the layout. A panel
 * is one row of W, two elements of K a byte, and becomes a row of gemm_int8.c. */
#include "../gemm_int4.h"
#include "row.h"

static void expand(char *to, const uint8_t *scales, const uint8_t *nibbles, size_t Kp)
{
    for (size_t k = 0; k < Kp; k++)
        to[k] = (char)(((nibbles[k / 2] >> 4 * (k % 2) & 15) - 8) * scales[k / TX_INT4_GROUP]);
}

static const struct txk_int4 layout = {.nr = 1, .side = 2, .expand = expand, .gemm_int8 = txk_gemm_int8_ref};
TXK_INT4_PACKING(ref, layout)

void txk_gemm_int4_ref(const struct tx_gemm_narrow *job)
{
    txk_int4_gemm(&layout, job);
}
