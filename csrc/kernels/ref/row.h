/* The reference functions, and the scalars that several of them share. Included by table.c, the
 * reference files, and fast ones that leave a rare row to the reference. */
#ifndef TXK_REF_ROW_H
#define TXK_REF_ROW_H

#include "../gemm_int4.h"

float txk_activate_one_ref(float x, int act);
float txk_epilogue_one_ref(float acc, size_t m, size_t n, const struct tx_epilogue_f32 *e);

/* An int8 row's scale from max|x| (Inf where the row has an Inf or a NaN), and the factor that x is multiplied by. */
struct txk_scale_ref { float scale, factor; };
struct txk_scale_ref txk_scale_of_max_ref(float max);
/* max(|x|, max), Inf for NaN. */
float txk_max_magnitude_ref(float max, float x);
int8_t txk_quantize_one_ref(float x, float factor);

/* Mean and 1 / sqrt(variance + eps) of a row; element d of its normalised, modulated form. */
struct txk_moments_ref { double mean, rstd; };
struct txk_moments_ref txk_moments_ref(const struct tx_norm_f32 *job, size_t m);
float txk_norm_one_ref(const struct tx_norm_f32 *job, size_t m, size_t d, struct txk_moments_ref moments);

/* An element of a low-precision product on its way out. */
void txk_store_narrow_ref(const struct tx_gemm_narrow *job, size_t m, size_t n, float acc);

size_t txk_gemm_f32_packed_ref(size_t N, size_t K);
void txk_gemm_f32_pack_ref(float *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_f32_unpack_ref(float *w, const float *packed, size_t N, size_t K);
void txk_gemm_f32_ref(const struct tx_gemm_f32 *job);
void txk_epilogue_f32_ref(float *out, size_t ldo, const float *acc, size_t ldacc, size_t M, size_t N,
                          const struct tx_epilogue_f32 *epilogue);
size_t txk_attention_f32_scratch_ref(size_t Tk, size_t Dh);
void txk_attention_f32_ref(const struct tx_attention_f32 *job);
size_t txk_gemm_narrow_packed_ref(size_t N, size_t K);
void txk_gemm_bf16_pack_ref(uint16_t *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_bf16_unpack_ref(uint16_t *w, const uint16_t *packed, size_t N, size_t K);
void txk_gemm_bf16_ref(const struct tx_gemm_narrow *job);
void txk_gemm_int8_pack_ref(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_int8_unpack_ref(int8_t *w, const int8_t *packed, size_t N, size_t K);
void txk_gemm_int8_ref(const struct tx_gemm_narrow *job);
TXK_INT4_DECLARE(ref);
size_t txk_attention_bf16_scratch_ref(size_t Tk, size_t Dh);
void txk_attention_bf16_ref(const struct tx_attention_bf16 *job);
void txk_round_bf16_ref(uint16_t *out, size_t ldo, const float *x, size_t ldx, size_t M, size_t K);
void txk_quantize_int8_ref(int8_t *out, size_t ldo, float *scale, const void *x, int from_bf16, size_t ldx, size_t M, size_t K);
void txk_norm_bf16_ref(const struct tx_norm_f32 *job, uint16_t *out);
void txk_norm_int8_ref(const struct tx_norm_f32 *job, int8_t *out, float *scale);
void txk_norm_f32_ref(const struct tx_norm_f32 *job);
void txk_activate_f32_ref(float *out, const float *x, size_t n, int act);
void txk_gated_f32_ref(const struct tx_gated *job);
void txk_gated_bf16_ref(const struct tx_gated *job);
void txk_rotate_f32_ref(float *x, size_t ldx, const float *turns, size_t ldt, size_t M, size_t n);
void txk_rotate_bf16_ref(uint16_t *x, size_t ldx, const float *turns, size_t ldt, size_t M, size_t n);
void txk_step_f32_ref(const struct tx_step_f32 *job);
void txk_patchify_u8_ref(float *patches, size_t ldp, const uint8_t *image, struct tx_patches cut);
void txk_patchify_f32_ref(float *patches, size_t ldp, const float *image, struct tx_patches cut);
void txk_unpatchify_u8_ref(uint8_t *image, const float *patches, size_t ldp, struct tx_patches cut);
void txk_unpatchify_f32_ref(float *image, const float *patches, size_t ldp, struct tx_patches cut);

#endif
