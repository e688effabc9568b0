/* gemm_bf16 on tiles: gemm_narrow.h with tdpbf16ps, which takes 32 elements of K a step in 16 pairs. Pairs are summed in
 * float32, rounded to nearest even, subnormals flushed. */
#include "gemm_narrow.h"

NARROW_ROWS_FUNCTIONS(0)

void txk_gemm_bf16_amx(const struct tx_gemm_narrow *job)
{
    gemm_narrow(job, narrow_rows_of_act[job->epilogue.act], 0);
}
