/* C[M,N] = epilogue(A[M,K] W[N,K]^T) with factors in bfloat16, the version to read first: sums in double over ascending k.
 *
 * "Packed" is W itself, rows zero padded to tx_k_padded(K) elements, for int8 too (gemm_int8.c). */
#include "row.h"

size_t txk_gemm_narrow_packed_ref(size_t N, size_t K)
{
    return N * tx_k_padded(K);
}

void txk_gemm_bf16_pack_ref(uint16_t *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    const size_t Kp = tx_k_padded(K);
    for (size_t n = n0; n < n1; n++)
        for (size_t k = 0; k < Kp; k++)
            dst[n * Kp + k] = k < K ? tx_bf16_of_float(w[n * K + k]) : 0;
}

void txk_gemm_bf16_unpack_ref(uint16_t *w, const uint16_t *packed, size_t N, size_t K)
{
    for (size_t n = 0; n < N; n++)
        for (size_t k = 0; k < K; k++)
            w[n * K + k] = packed[n * tx_k_padded(K) + k];
}

void txk_store_narrow_ref(const struct tx_gemm_narrow *job, size_t m, size_t n, float acc)
{
    const float y = txk_epilogue_one_ref(acc, m, n, &job->epilogue);
    if (job->out_bf16)
        ((uint16_t *)job->out)[m * job->ldo + n] = tx_bf16_of_float(y);
    else
        ((float *)job->out)[m * job->ldo + n] = y;
}

void txk_gemm_bf16_ref(const struct tx_gemm_narrow *job)
{
    for (size_t m = 0; m < job->M; m++) {
        const uint16_t *a = (const uint16_t *)job->a + m * job->lda;
        for (size_t n = job->n0; n < job->n1; n++) {
            const uint16_t *w = (const uint16_t *)job->w + n * tx_k_padded(job->K);
            double acc = 0;
            for (size_t k = 0; k < job->K; k++)
                acc += (double)tx_float_of_bf16(a[k]) * tx_float_of_bf16(w[k]);
            txk_store_narrow_ref(job, m, n, (float)acc);
        }
    }
}
