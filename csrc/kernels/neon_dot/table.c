/* The row neon_dot: products in int8 by SDOT (ARMv8.2's dot products). */
#include "../../base/cpu.h"
#include "row.h"

static const struct tx_kernels slots = {
    .gemm_int8_nr = 16,
    .gemm_int8_packed = txk_gemm_int8_packed_neon_dot,
    .gemm_int8_pack = txk_gemm_int8_pack_neon_dot,
    .gemm_int8_unpack = txk_gemm_int8_unpack_neon_dot,
    .gemm_int8 = txk_gemm_int8_neon_dot,
    TXK_INT4_FILL(neon_dot, 16),
};

const struct tx_row txk_row_neon_dot = {
    .name = "neon_dot",
    .needs = TX_CPU_NEON | TX_CPU_NEON_DOT,
    .slots = &slots,
    .peak = {[TX_INT8] = txk_peak_int8_neon_dot},
};
