/* The low-precision functions of the rows from AVX-512 on. Those named avx512 need F, BW, DQ and VL alone, and pack for all. */
#ifndef TXK_KERNELS_LOW_AVX512_H
#define TXK_KERNELS_LOW_AVX512_H

#include "kernels.h"

/* avx512 */
size_t txk_gemm_low_packed_avx512(size_t N, size_t K);
void txk_gemm_bf16_pack_avx512(uint16_t *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_bf16_unpack_avx512(uint16_t *w, const uint16_t *packed, size_t N, size_t K);
void txk_gemm_int8_pack_avx512(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_int8_unpack_avx512(int8_t *w, const int8_t *packed, size_t N, size_t K);
void txk_gemm_int8_pack_unsigned_avx512(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_int8_unpack_unsigned_avx512(int8_t *w, const int8_t *packed, size_t N, size_t K);
void txk_round_bf16_avx512(uint16_t *out, size_t ldo, const float *x, size_t ldx, size_t M, size_t K);
void txk_quantize_int8_avx512(int8_t *out, size_t ldo, float *scale, const void *x, int from_bf16, size_t ldx, size_t M, size_t K);
void txk_norm_bf16_avx512(const struct tx_norm_f32 *job, uint16_t *out);
void txk_norm_int8_avx512(const struct tx_norm_f32 *job, int8_t *out, float *scale);

/* avx512bf16 */
void txk_gemm_bf16_avx512bf16(const struct tx_gemm_low *job);
size_t txk_attention_bf16_scratch_avx512bf16(size_t Tk, size_t Dh);
void txk_attention_bf16_avx512bf16(const struct tx_attention_bf16 *job);

/* avx512vnni */
void txk_gemm_int8_avx512vnni(const struct tx_gemm_low *job);
size_t txk_attention_int8_scratch_avx512vnni(size_t Tk, size_t Dh);
void txk_attention_int8_avx512vnni(const struct tx_attention_bf16 *job);

/* amx */
void txk_gemm_bf16_amx(const struct tx_gemm_low *job);
void txk_gemm_int8_amx(const struct tx_gemm_low *job);
size_t txk_attention_bf16_scratch_amx(size_t Tk, size_t Dh);
void txk_attention_bf16_amx(const struct tx_attention_bf16 *job);

/* Not slots: as txk_peak_f32_avx512. */
double txk_peak_bf16_avx512bf16(size_t rounds);
double txk_peak_int8_avx512vnni(size_t rounds);
double txk_peak_bf16_amx(size_t rounds);
double txk_peak_int8_amx(size_t rounds);

#endif
