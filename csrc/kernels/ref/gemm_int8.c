/* C[M,N] = epilogue(sum * (a_scale w_scale)), sum = A[M,K] W[N,K]^T in int8, exact in int32 (K up to 133,000), the version to
 * read first. "Packed" is W itself with padded rows, as in gemm_bf16.c. */
#include "row.h"

void txk_gemm_int8_pack_ref(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    const size_t Kp = tx_k_padded(K);
    for (size_t n = n0; n < n1; n++)
        for (size_t k = 0; k < Kp; k++)
            dst[n * Kp + k] = k < K ? w[n * K + k] : 0;
}

void txk_gemm_int8_unpack_ref(int8_t *w, const int8_t *packed, size_t N, size_t K)
{
    for (size_t n = 0; n < N; n++)
        for (size_t k = 0; k < K; k++)
            w[n * K + k] = packed[n * tx_k_padded(K) + k];
}

void txk_gemm_int8_ref(const struct tx_gemm_narrow *job)
{
    for (size_t m = 0; m < job->M; m++) {
        const int8_t *a = (const int8_t *)job->a + m * job->lda;
        for (size_t n = job->n0; n < job->n1; n++) {
            const int8_t *w = (const int8_t *)job->w + n * tx_k_padded(job->K);
            int32_t sum = 0;
            for (size_t k = 0; k < job->K; k++)
                sum += a[k] * w[k];
            txk_store_narrow_ref(job, m, n, (float)sum * (job->a_scale[m] * job->w_scale[n]));
        }
    }
}
