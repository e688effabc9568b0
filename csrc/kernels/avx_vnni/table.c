/* The avx_vnni row: what the 256-bit vpdpbusd makes fast. */
#include "../../base/cpu.h"
#include "row.h"

static const struct tx_kernels slots = {
    .gemm_int8_nr = 16,
    .gemm_int8_packed = txk_gemm_int8_packed_avx_vnni,
    .gemm_int8_pack = txk_gemm_int8_pack_avx_vnni,
    .gemm_int8_unpack = txk_gemm_int8_unpack_avx_vnni,
    .gemm_int8 = txk_gemm_int8_avx_vnni,
    TXK_INT4_FILL(avx_vnni, 16),
    .attention_int8_scratch = txk_attention_int8_scratch_avx_vnni,
    .attention_int8 = txk_attention_int8_avx_vnni,
};

const struct tx_row txk_row_avx_vnni = {
    .name = "avx_vnni", .needs = TX_CPU_AVX2 | TX_CPU_AVX_VNNI, .slots = &slots,
    .peak = {[TX_INT8] = txk_peak_int8_avx_vnni}};
