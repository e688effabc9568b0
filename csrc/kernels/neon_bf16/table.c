/* The row neon_bf16: products in bfloat16 by BFMMLA (ARMv8.6's matrix products of bfloat16). */
#include "../../base/cpu.h"
#include "row.h"

static const struct tx_kernels slots = {
    .gemm_bf16_nr = 16,
    .gemm_bf16_packed = txk_gemm_bf16_packed_neon_bf16,
    .gemm_bf16_pack = txk_gemm_bf16_pack_neon_bf16,
    .gemm_bf16_unpack = txk_gemm_bf16_unpack_neon_bf16,
    .gemm_bf16 = txk_gemm_bf16_neon_bf16,
};

const struct tx_row txk_row_neon_bf16 = {
    .name = "neon_bf16", .needs = TX_CPU_NEON | TX_CPU_NEON_BF16, .slots = &slots,
    .peak = {[TX_BF16] = txk_peak_bf16_neon_bf16}};
