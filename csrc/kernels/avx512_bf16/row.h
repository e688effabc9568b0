/* The functions of the avx512_bf16 row. */
#ifndef TXK_AVX512_BF16_ROW_H
#define TXK_AVX512_BF16_ROW_H

#include "../avx512/row.h"

void txk_gemm_bf16_avx512_bf16(const struct tx_gemm_narrow *job);
size_t txk_attention_bf16_scratch_avx512_bf16(size_t Tk, size_t Dh);
void txk_attention_bf16_avx512_bf16(const struct tx_attention_bf16 *job);

/* Not slots: as txk_peak_f32_avx512. */
double txk_peak_bf16_avx512_bf16(size_t rounds);

#endif
