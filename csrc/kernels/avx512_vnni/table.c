/* The avx512_vnni row: what vpdpbusd makes fast. */
#include "../../base/cpu.h"
#include "row.h"

static const struct tx_kernels slots = {
    .gemm_int8_nr = 32,
    .gemm_int8_beside = 1,
    .gemm_int8_packed = txk_gemm_narrow_packed_avx512,
    .gemm_int8_pack = txk_gemm_int8_pack_unsigned_avx512,
    .gemm_int8_unpack = txk_gemm_int8_unpack_unsigned_avx512,
    .gemm_int8 = txk_gemm_int8_avx512_vnni,
    TXK_INT4_FILL(avx512_vnni, 32),
    .attention_int8_scratch = txk_attention_int8_scratch_avx512_vnni,
    .attention_int8 = txk_attention_int8_avx512_vnni,
};

const struct tx_row txk_row_avx512_vnni = {.name = "avx512_vnni", .needs = TX_CPU_AVX512 | TX_CPU_AVX512_VNNI, .slots = &slots,
    .peak = {[TX_INT8] = txk_peak_int8_avx512_vnni}};
