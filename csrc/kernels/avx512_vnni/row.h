/* The functions of the avx512_vnni row. */
#ifndef TXK_AVX512_VNNI_ROW_H
#define TXK_AVX512_VNNI_ROW_H

#include "../gemm_int4.h"
#include "../avx512/row.h"

void txk_gemm_int8_avx512_vnni(const struct tx_gemm_narrow *job);
TXK_INT4_DECLARE(avx512_vnni);
size_t txk_attention_int8_scratch_avx512_vnni(size_t Tk, size_t Dh);
void txk_attention_int8_avx512_vnni(const struct tx_attention_bf16 *job);

/* Not slots: as txk_peak_f32_avx512. */
double txk_peak_int8_avx512_vnni(size_t rounds);

#endif
