/* The avx_vnni row: what the 256-bit vpdpbusd makes fast. */
#include "kernels_avx2.h"

extern const struct tx_kernels txk_table_avxvnni;
const struct tx_kernels txk_table_avxvnni = {
    .gemm_int8_nr = 16,
    .gemm_int8_packed = txk_gemm_int8_packed_avxvnni,
    .gemm_int8_pack = txk_gemm_int8_pack_avxvnni,
    .gemm_int8_unpack = txk_gemm_int8_unpack_avxvnni,
    .gemm_int8 = txk_gemm_int8_avxvnni,
};
