/* The functions of the avx512 row (F, BW, DQ, VL). Included by its table.c, by the files that call one another, and by the rows
 * above, for which it packs. */
#ifndef TXK_AVX512_ROW_H
#define TXK_AVX512_ROW_H

#include "../gemm_int4.h"

size_t txk_gemm_f32_packed_avx512(size_t N, size_t K);
void txk_gemm_f32_pack_avx512(float *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_f32_unpack_avx512(float *w, const float *packed, size_t N, size_t K);
void txk_gemm_f32_avx512(const struct tx_gemm_f32 *job);
void txk_epilogue_f32_avx512(float *out, size_t ldo, const float *acc, size_t ldacc, size_t M, size_t N,
                             const struct tx_epilogue_f32 *epilogue);
size_t txk_attention_f32_scratch_avx512(size_t Tk, size_t Dh);
void txk_attention_f32_avx512(const struct tx_attention_f32 *job);
size_t txk_attention_bf16_scratch_avx512(size_t Tk, size_t Dh);
void txk_attention_bf16_avx512(const struct tx_attention_bf16 *job);
size_t txk_attention_int8_scratch_avx512(size_t Tk, size_t Dh);
void txk_attention_int8_avx512(const struct tx_attention_bf16 *job);
void txk_norm_f32_avx512(const struct tx_norm_f32 *job);
void txk_activate_f32_avx512(float *out, const float *x, size_t n, int act);
void txk_gated_f32_avx512(const struct tx_gated *job);
void txk_gated_bf16_avx512(const struct tx_gated *job);
void txk_rotate_f32_avx512(float *x, size_t ldx, const float *turns, size_t ldt, size_t M, size_t n);
void txk_rotate_bf16_avx512(uint16_t *x, size_t ldx, const float *turns, size_t ldt, size_t M, size_t n);

size_t txk_gemm_narrow_packed_avx512(size_t N, size_t K);
void txk_gemm_bf16_pack_avx512(uint16_t *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_bf16_unpack_avx512(uint16_t *w, const uint16_t *packed, size_t N, size_t K);
void txk_gemm_bf16_avx512(const struct tx_gemm_narrow *job);
void txk_gemm_int8_pack_avx512(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_int8_unpack_avx512(int8_t *w, const int8_t *packed, size_t N, size_t K);
void txk_gemm_int8_pack_unsigned_avx512(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_int8_unpack_unsigned_avx512(int8_t *w, const int8_t *packed, size_t N, size_t K);
void txk_gemm_int8_avx512(const struct tx_gemm_narrow *job);
/* As txk_gemm_bytes_avx2, whose layout it reads. */
void txk_gemm_bytes_avx512(const struct tx_gemm_narrow *job);
void txk_gemm_int4_avx512(const struct tx_gemm_narrow *job);
void txk_round_bf16_avx512(uint16_t *out, size_t ldo, const float *x, size_t ldx, size_t M, size_t K);
void txk_quantize_int8_avx512(int8_t *out, size_t ldo, float *scale, const void *x, int from_bf16, size_t ldx, size_t M,
                              size_t K);
void txk_norm_bf16_avx512(const struct tx_norm_f32 *job, uint16_t *out);
void txk_norm_int8_avx512(const struct tx_norm_f32 *job, int8_t *out, float *scale);

/* Not slots: run `rounds` rounds of multiply-adds in registers and returns how many operations that was. */
double txk_peak_f32_avx512(size_t rounds);
double txk_peak_int8_avx512(size_t rounds);

#endif
