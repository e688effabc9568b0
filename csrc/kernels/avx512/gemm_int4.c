/* gemm_int4: ../gemm_int4.h, on the bytes of gemm_int8.c. avx2's table has the rest, since the layout is the same. */
#include "../avx2/expand_int4.h"
#include "row.h"

static void expand(char *to, const uint8_t *scales, const uint8_t *nibbles, size_t Kp)
{
    expand_int4_fours(to, scales, nibbles, Kp, 0);
}

void txk_gemm_int4_avx512(const struct tx_gemm_narrow *job)
{
    static const struct txk_int4 layout = {.nr = 16, .side = 4, .expand = expand, .gemm_int8 = txk_gemm_bytes_avx512};
    txk_int4_gemm(&layout, job);
}
