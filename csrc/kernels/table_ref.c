/* The reference row: every slot. */
#include "kernels_ref.h"

extern const struct tx_kernels txk_table_ref;
const struct tx_kernels txk_table_ref = {
    .gemm_f32_nr = 1,
    .gemm_f32_fast = 0,
    .gemm_f32_packed = txk_gemm_f32_packed_ref,
    .gemm_f32_pack = txk_gemm_f32_pack_ref,
    .gemm_f32_unpack = txk_gemm_f32_unpack_ref,
    .gemm_f32 = txk_gemm_f32_ref,
    .epilogue_f32 = txk_epilogue_f32_ref,
    .attention_f32_scratch = txk_attention_f32_scratch_ref,
    .attention_f32 = txk_attention_f32_ref,
    .norm_f32 = txk_norm_f32_ref,
    .activate_f32 = txk_activate_f32_ref,
    .step_f32 = txk_step_f32_ref,
    .patchify_u8 = txk_patchify_u8_ref,
    .patchify_f32 = txk_patchify_f32_ref,
    .unpatchify_u8 = txk_unpatchify_u8_ref,
    .unpatchify_f32 = txk_unpatchify_f32_ref,
};
