/* The reference functions, and the two scalars that several of them share. Only table_ref.c and the reference files include this. */
#ifndef TXK_KERNELS_REF_H
#define TXK_KERNELS_REF_H

#include "kernels.h"

float txk_activate_one_ref(float x, int act);
float txk_epilogue_one_ref(float acc, size_t m, size_t n, const struct tx_epilogue_f32 *e);

size_t txk_gemm_f32_packed_ref(size_t N, size_t K);
void txk_gemm_f32_pack_ref(float *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_f32_unpack_ref(float *w, const float *packed, size_t N, size_t K);
void txk_gemm_f32_ref(const struct tx_gemm_f32 *job);
void txk_epilogue_f32_ref(float *out, size_t ldo, const float *acc, size_t ldacc, size_t M, size_t N,
                          const struct tx_epilogue_f32 *epilogue);
size_t txk_attention_f32_scratch_ref(size_t Tk, size_t Dh);
void txk_attention_f32_ref(const struct tx_attention_f32 *job);
void txk_norm_f32_ref(const struct tx_norm_f32 *job);
void txk_activate_f32_ref(float *out, const float *x, size_t n, int act);
void txk_step_f32_ref(const struct tx_step_f32 *job);
void txk_patchify_u8_ref(float *patches, size_t ldp, const uint8_t *image, size_t S, size_t p);
void txk_patchify_f32_ref(float *patches, size_t ldp, const float *image, size_t S, size_t p);
void txk_unpatchify_u8_ref(uint8_t *image, const float *patches, size_t ldp, size_t S, size_t p);
void txk_unpatchify_f32_ref(float *image, const float *patches, size_t ldp, size_t S, size_t p);

#endif
