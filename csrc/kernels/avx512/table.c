/* The AVX-512 row: the slots that cost something. */
#include "../../base/cpu.h"
#include "../avx2/row.h"
#include "row.h"

static const struct tx_kernels slots = {
    .gemm_f32_nr = 64,
    .gemm_f32_fast = 1,
    .gemm_f32_beside = 1,
    .gemm_f32_packed = txk_gemm_f32_packed_avx512,
    .gemm_f32_pack = txk_gemm_f32_pack_avx512,
    .gemm_f32_unpack = txk_gemm_f32_unpack_avx512,
    .gemm_f32 = txk_gemm_f32_avx512,
    .epilogue_f32 = txk_epilogue_f32_avx512,
    .attention_f32_scratch = txk_attention_f32_scratch_avx512,
    .attention_f32 = txk_attention_f32_avx512,
    .gemm_bf16_nr = 32,
    .gemm_bf16_packed = txk_gemm_narrow_packed_avx512,
    .gemm_bf16_pack = txk_gemm_bf16_pack_avx512,
    .gemm_bf16_unpack = txk_gemm_bf16_unpack_avx512,
    .gemm_bf16 = txk_gemm_bf16_avx512,
    .gemm_int8_nr = 16,
    .gemm_int8_fit = txk_gemm_int8_fit_avx2,
    .gemm_int8_packed = txk_gemm_int8_packed_avx2,
    .gemm_int8_pack = txk_gemm_int8_pack_avx2,
    .gemm_int8_unpack = txk_gemm_int8_unpack_avx2,
    .gemm_int8 = txk_gemm_int8_avx512,
    .gemm_int4_nr = 16,
    .gemm_int4_packed = txk_gemm_int4_packed_avx2,
    .gemm_int4_pack = txk_gemm_int4_pack_avx2,
    .gemm_int4_unpack = txk_gemm_int4_unpack_avx2,
    .gemm_int4_scratch = txk_gemm_int4_scratch_avx2,
    .gemm_int4 = txk_gemm_int4_avx512,
    .attention_bf16_scratch = txk_attention_bf16_scratch_avx512,
    .attention_bf16 = txk_attention_bf16_avx512,
    .attention_int8_scratch = txk_attention_int8_scratch_avx512,
    .attention_int8 = txk_attention_int8_avx512,
    .norm_f32 = txk_norm_f32_avx512,
    .round_bf16 = txk_round_bf16_avx512,
    .quantize_int8 = txk_quantize_int8_avx512,
    .norm_bf16 = txk_norm_bf16_avx512,
    .norm_int8 = txk_norm_int8_avx512,
    .activate_f32 = txk_activate_f32_avx512,
    .gated_f32 = txk_gated_f32_avx512,
    .gated_bf16 = txk_gated_bf16_avx512,
    .rotate_f32 = txk_rotate_f32_avx512,
    .rotate_bf16 = txk_rotate_bf16_avx512,
};

const struct tx_row txk_row_avx512 = {
    .name = "avx512", .needs = TX_CPU_AVX512, .slots = &slots,
    .peak = {[TX_F32] = txk_peak_f32_avx512, [TX_BF16] = txk_peak_f32_avx512, [TX_INT8] = txk_peak_int8_avx512}};
