/* Weights of which four products fit in 16 bits: gemm_int8.c tells why, ../avx512/gemm_int8.c multiplies them twice as wide. */
#ifndef TXK_AVX2_GEMM_INT8_H
#define TXK_AVX2_GEMM_INT8_H

#include "gemm_narrow.h"

enum { FIT = 128 };

struct panel_head {
    int32_t begin[PANEL];       /* -128 times the sum of each column's weights */
    int32_t fits;               /* whether all 16 columns have the bound */
};

TXK_INLINE size_t heads_at(size_t N, size_t K)
{
    return (N + PANEL - 1) / PANEL * PANEL * tx_k_padded(K);
}

TXK_INLINE struct panel_head *heads_of(const void *packed, size_t N, size_t K)
{
    return (struct panel_head *)((char *)packed + heads_at(N, K));
}

/* Whether all panels of a job have the bound. */
TXK_INLINE int all_fit(const struct tx_gemm_narrow *job)
{
    const struct panel_head *heads = heads_of(job->w, job->N, job->K);
    for (size_t n = job->n0; n < job->n1; n += PANEL)
        if (!heads[n / PANEL].fits)
            return 0;
    return 1;
}

static void copy_bytes(char *to, const char *from, size_t K)
{
    memcpy(to, from, K);
}

/* A as a + 128, and what that has added to the sums taken off. */
static void unsigned_a(char *to, const char *from, size_t K)
{
    const __m256i sign = _mm256_set1_epi8((char)128);
    for (size_t k = 0; k < K; k += 32)
        _mm256_store_si256((__m256i *)(to + k), _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(from + k)), sign));
}

static void finish_fit(const struct tx_gemm_narrow *job, void *c, size_t m, size_t rows, size_t n, size_t columns)
{
    finish_int8_from(heads_of(job->w, job->N, job->K)[n / PANEL].begin, job, c, m, rows, n, columns);
}

#endif
