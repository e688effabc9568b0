/* The functions of the row neon_bf16: products in bfloat16 by BFMMLA (ARMv8.6's matrix products of bfloat16). */
#ifndef TXK_NEON_BF16_ROW_H
#define TXK_NEON_BF16_ROW_H

#include "../kernels.h"

size_t txk_gemm_bf16_packed_neon_bf16(size_t N, size_t K);
void txk_gemm_bf16_pack_neon_bf16(uint16_t *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_bf16_unpack_neon_bf16(uint16_t *w, const uint16_t *packed, size_t N, size_t K);
void txk_gemm_bf16_neon_bf16(const struct tx_gemm_narrow *job);

/* Not a slot: runs `rounds` rounds of its products in registers and returns how many operations that was. */
double txk_peak_bf16_neon_bf16(size_t rounds);

#endif
