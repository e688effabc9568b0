/* Packing float32 weights: a block of W[N,K] read along its rows, turned in registers, to be stored along a panel's columns. */
#ifndef TXK_AVX2_PACK_H
#define TXK_AVX2_PACK_H

#include "simd.h"

/* r[i] = columns n.. n+8 of W^T at k + i; 0 from column n1 and from K on. */
TXK_INLINE void load_columns(__m256 r[8], const float *w, size_t K, size_t n, size_t n1, size_t k)
{
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++)
        r[i] = n + i < n1 && k < K ? load_f32x8(w + (n + i) * K + k, K - k) : _mm256_setzero_ps();
    transpose_f32x8(r);
}

#endif
