/* The functions of the row neon_dot: products in int8 by SDOT (ARMv8.2's dot products). */
#ifndef TXK_NEON_DOT_ROW_H
#define TXK_NEON_DOT_ROW_H

#include "../gemm_int4.h"

size_t txk_gemm_int8_packed_neon_dot(size_t N, size_t K);
void txk_gemm_int8_pack_neon_dot(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1);
void txk_gemm_int8_unpack_neon_dot(int8_t *w, const int8_t *packed, size_t N, size_t K);
void txk_gemm_int8_neon_dot(const struct tx_gemm_narrow *job);
TXK_INT4_DECLARE(neon_dot);

/* Not a slot: runs `rounds` rounds of its products in registers and returns how many operations that was. */
double txk_peak_int8_neon_dot(size_t rounds);

#endif
