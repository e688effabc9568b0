/* The functions of the amx row. */
#ifndef TXK_AMX_ROW_H
#define TXK_AMX_ROW_H

#include "../gemm_int4.h"
#include "../avx512/row.h"

void txk_gemm_bf16_amx(const struct tx_gemm_narrow *job);
void txk_gemm_int8_amx(const struct tx_gemm_narrow *job);
TXK_INT4_DECLARE(amx);
size_t txk_attention_bf16_scratch_amx(size_t Tk, size_t Dh);
void txk_attention_bf16_amx(const struct tx_attention_bf16 *job);

/* Not slots: as txk_peak_f32_avx512. */
double txk_peak_bf16_amx(size_t rounds);
double txk_peak_int8_amx(size_t rounds);

#endif
