/* gemm_int8 on tiles: gemm_narrow.h with tdpbssd, signed by signed, 64 elements of K a step, exact int32 sums. */
#include "gemm_narrow.h"

NARROW_ROWS_FUNCTIONS(1)

void txk_gemm_int8_amx(const struct tx_gemm_narrow *job)
{
    gemm_narrow(job, narrow_rows_of_act[job->epilogue.act], 1);
}
