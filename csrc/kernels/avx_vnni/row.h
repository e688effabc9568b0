/* The functions of the avx_vnni row. */
#ifndef TXK_AVX_VNNI_ROW_H
#define TXK_AVX_VNNI_ROW_H

#include "../gemm_int4.h"
#include "../avx2/row.h"

size_t txk_gemm_int8_packed_avx_vnni(size_t N, size_t K);
void txk_gemm_int8_pack_avx_vnni(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_int8_unpack_avx_vnni(int8_t *w, const int8_t *packed, size_t N, size_t K);
void txk_gemm_int8_avx_vnni(const struct tx_gemm_narrow *job);
TXK_INT4_DECLARE(avx_vnni);
size_t txk_attention_int8_scratch_avx_vnni(size_t Tk, size_t Dh);
void txk_attention_int8_avx_vnni(const struct tx_attention_bf16 *job);

/* Not a slot: as txk_peak_int8_avx2. */
double txk_peak_int8_avx_vnni(size_t rounds);

#endif
