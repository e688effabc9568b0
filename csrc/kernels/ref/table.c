/* The reference row: every slot. */
#include "row.h"

static const struct tx_kernels slots = {
    .gemm_f32_nr = 1,
#ifdef TX_OPENBLAS
    .gemm_f32_fast = 0,
#else
    .gemm_f32_fast = 1,     /* there is nothing faster */
#endif
    .gemm_f32_packed = txk_gemm_f32_packed_ref,
    .gemm_f32_pack = txk_gemm_f32_pack_ref,
    .gemm_f32_unpack = txk_gemm_f32_unpack_ref,
    .gemm_f32 = txk_gemm_f32_ref,
    .epilogue_f32 = txk_epilogue_f32_ref,
    .attention_f32_scratch = txk_attention_f32_scratch_ref,
    .attention_f32 = txk_attention_f32_ref,
    .gemm_bf16_nr = 1,
    .gemm_bf16_packed = txk_gemm_narrow_packed_ref,
    .gemm_bf16_pack = txk_gemm_bf16_pack_ref,
    .gemm_bf16_unpack = txk_gemm_bf16_unpack_ref,
    .gemm_bf16 = txk_gemm_bf16_ref,
    .gemm_int8_nr = 1,
    .gemm_int8_packed = txk_gemm_narrow_packed_ref,
    .gemm_int8_pack = txk_gemm_int8_pack_ref,
    .gemm_int8_unpack = txk_gemm_int8_unpack_ref,
    .gemm_int8 = txk_gemm_int8_ref,
    TXK_INT4_FILL(ref, 1),
    .attention_bf16_scratch = txk_attention_bf16_scratch_ref,
    .attention_bf16 = txk_attention_bf16_ref,
    .attention_int8_scratch = txk_attention_bf16_scratch_ref,
    .attention_int8 = txk_attention_bf16_ref,
    .round_bf16 = txk_round_bf16_ref,
    .quantize_int8 = txk_quantize_int8_ref,
    .norm_bf16 = txk_norm_bf16_ref,
    .norm_int8 = txk_norm_int8_ref,
    .norm_f32 = txk_norm_f32_ref,
    .activate_f32 = txk_activate_f32_ref,
    .gated_f32 = txk_gated_f32_ref,
    .gated_bf16 = txk_gated_bf16_ref,
    .rotate_f32 = txk_rotate_f32_ref,
    .rotate_bf16 = txk_rotate_bf16_ref,
    .step_f32 = txk_step_f32_ref,
    .patchify_u8 = txk_patchify_u8_ref,
    .patchify_f32 = txk_patchify_f32_ref,
    .unpatchify_u8 = txk_unpatchify_u8_ref,
    .unpatchify_f32 = txk_unpatchify_f32_ref,
};

const struct tx_row txk_row_ref = {.name = "ref", .needs = 0, .slots = &slots};
