/* The amx row: the products in bfloat16 and int8 on tiles. */
#include "../../base/cpu.h"
#include "row.h"

static const struct tx_kernels slots = {
    .gemm_bf16_nr = 32,
    .gemm_bf16_packed = txk_gemm_narrow_packed_avx512,
    .gemm_bf16_pack = txk_gemm_bf16_pack_avx512,
    .gemm_bf16_unpack = txk_gemm_bf16_unpack_avx512,
    .gemm_bf16 = txk_gemm_bf16_amx,
    .gemm_int8_nr = 32,
    .gemm_int8_packed = txk_gemm_narrow_packed_avx512,
    .gemm_int8_pack = txk_gemm_int8_pack_avx512,
    .gemm_int8_unpack = txk_gemm_int8_unpack_avx512,
    .gemm_int8 = txk_gemm_int8_amx,
    TXK_INT4_FILL(amx, 32),
    .attention_bf16_scratch = txk_attention_bf16_scratch_amx,
    .attention_bf16 = txk_attention_bf16_amx,
    .attention_int8_scratch = txk_attention_bf16_scratch_amx,
    .attention_int8 = txk_attention_bf16_amx,
};

const struct tx_row txk_row_amx = {.name = "amx", .needs = TX_CPU_AVX512 | TX_CPU_AVX512_BF16 | TX_CPU_AMX, .slots = &slots,
    .peak = {[TX_BF16] = txk_peak_bf16_amx, [TX_INT8] = txk_peak_int8_amx}};
