/* The functions of the row neon_i8mm: products in int8 by SMMLA (ARMv8.6's matrix products of int8). */
#ifndef TXK_NEON_I8MM_ROW_H
#define TXK_NEON_I8MM_ROW_H

#include "../gemm_int4.h"

size_t txk_gemm_int8_packed_neon_i8mm(size_t N, size_t K);
void txk_gemm_int8_pack_neon_i8mm(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_int8_unpack_neon_i8mm(int8_t *w, const int8_t *packed, size_t N, size_t K);
void txk_gemm_int8_neon_i8mm(const struct tx_gemm_narrow *job);
TXK_INT4_DECLARE(neon_i8mm);

/* Not a slot: runs `rounds` rounds of its products in registers and returns how many operations that was. */
double txk_peak_int8_neon_i8mm(size_t rounds);

#endif
