/* The avx_vnni row: what the 256-bit vpdpbusd makes fast. */
#include "row.h"

extern const struct tx_kernels txk_table_avx_vnni;
const struct tx_kernels txk_table_avx_vnni = {
    .gemm_int8_nr = 16,
    .gemm_int8_packed = txk_gemm_int8_packed_avx_vnni,
    .gemm_int8_pack = txk_gemm_int8_pack_avx_vnni,
    .gemm_int8_unpack = txk_gemm_int8_unpack_avx_vnni,
    .gemm_int8 = txk_gemm_int8_avx_vnni,
};
