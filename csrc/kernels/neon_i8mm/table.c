/* The row neon_i8mm: products in int8 by SMMLA (ARMv8.6's matrix products of int8). */
#include "../../base/cpu.h"
#include "row.h"

static const struct tx_kernels slots = {
    .gemm_int8_nr = 16,
    .gemm_int8_packed = txk_gemm_int8_packed_neon_i8mm,
    .gemm_int8_pack = txk_gemm_int8_pack_neon_i8mm,
    .gemm_int8_unpack = txk_gemm_int8_unpack_neon_i8mm,
    .gemm_int8 = txk_gemm_int8_neon_i8mm,
    TXK_INT4_FILL(neon_i8mm, 16),
};

const struct tx_row txk_row_neon_i8mm = {
    .name = "neon_i8mm", .needs = TX_CPU_NEON | TX_CPU_NEON_I8MM, .slots = &slots,
    .peak = {[TX_INT8] = txk_peak_int8_neon_i8mm}};
