/* The NEON row: the slots that cost something. */
#include "../../base/cpu.h"
#include "row.h"

static const struct tx_kernels slots = {
    .gemm_f32_nr = 16,
    .gemm_f32_fast = 1,
    .gemm_f32_packed = txk_gemm_f32_packed_neon,
    .gemm_f32_pack = txk_gemm_f32_pack_neon,
    .gemm_f32_unpack = txk_gemm_f32_unpack_neon,
    .gemm_f32 = txk_gemm_f32_neon,
    .epilogue_f32 = txk_epilogue_f32_neon,
    .attention_f32_scratch = txk_attention_f32_scratch_neon,
    .attention_f32 = txk_attention_f32_neon,
    .gemm_bf16_nr = 16,
    .gemm_bf16_packed = txk_gemm_bf16_packed_neon,
    .gemm_bf16_pack = txk_gemm_bf16_pack_neon,
    .gemm_bf16_unpack = txk_gemm_bf16_unpack_neon,
    .gemm_bf16 = txk_gemm_bf16_neon,
    .gemm_int8_nr = 16,
    .gemm_int8_packed = txk_gemm_int8_packed_neon,
    .gemm_int8_pack = txk_gemm_int8_pack_neon,
    .gemm_int8_unpack = txk_gemm_int8_unpack_neon,
    .gemm_int8 = txk_gemm_int8_neon,
    TXK_INT4_FILL(neon, 16),
    .attention_bf16_scratch = txk_attention_bf16_scratch_neon,
    .attention_bf16 = txk_attention_bf16_neon,
    .attention_int8_scratch = txk_attention_bf16_scratch_neon,
    .attention_int8 = txk_attention_bf16_neon,
    .round_bf16 = txk_round_bf16_neon,
    .quantize_int8 = txk_quantize_int8_neon,
    .norm_bf16 = txk_norm_bf16_neon,
    .norm_int8 = txk_norm_int8_neon,
    .norm_f32 = txk_norm_f32_neon,
    .activate_f32 = txk_activate_f32_neon,
    .gated_f32 = txk_gated_f32_neon,
    .gated_bf16 = txk_gated_bf16_neon,
    .rotate_f32 = txk_rotate_f32_neon,
    .rotate_bf16 = txk_rotate_bf16_neon,
};

const struct tx_row txk_row_neon = {
    .name = "neon", .needs = TX_CPU_NEON, .slots = &slots, .peak = {[TX_F32] = txk_peak_f32_neon}};
