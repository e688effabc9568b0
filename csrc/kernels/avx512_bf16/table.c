/* The avx512_bf16 row: what vdpbf16ps makes fast. */
#include "../../base/cpu.h"
#include "row.h"

static const struct tx_kernels slots = {
    .gemm_bf16_nr = 32,
    .gemm_bf16_beside = 1,
    .gemm_bf16_packed = txk_gemm_narrow_packed_avx512,
    .gemm_bf16_pack = txk_gemm_bf16_pack_avx512,
    .gemm_bf16_unpack = txk_gemm_bf16_unpack_avx512,
    .gemm_bf16 = txk_gemm_bf16_avx512_bf16,
    .attention_bf16_scratch = txk_attention_bf16_scratch_avx512_bf16,
    .attention_bf16 = txk_attention_bf16_avx512_bf16,
    .attention_int8_scratch = txk_attention_bf16_scratch_avx512_bf16,
    .attention_int8 = txk_attention_bf16_avx512_bf16,
};

const struct tx_row txk_row_avx512_bf16 = {.name = "avx512_bf16", .needs = TX_CPU_AVX512 | TX_CPU_AVX512_BF16, .slots = &slots,
    .peak = {[TX_BF16] = txk_peak_bf16_avx512_bf16}};
