/* C[M,N] = epilogue(A[M,K] W[N,K]^T), the version to read first.
 *
 * "Packed" is W itself, row-major, so a panel is one column of C and any n0 will do. Each element is one sum over k in
 * ascending order, in double: products of two floats are exact there, and this row is what the fast ones are measured against.
 * The model prefers a BLAS (gemm_f32_fast is 0). */
#include "row.h"

#include <string.h>

size_t txk_gemm_f32_packed_ref(size_t N, size_t K)
{
    return N * K;
}

void txk_gemm_f32_pack_ref(float *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1)
{
    (void)N;
    if (n1 > n0 && K > 0)
        memcpy(dst + n0 * K, w + n0 * K, (n1 - n0) * K * sizeof *w);
}

void txk_gemm_f32_unpack_ref(float *w, const float *packed, size_t N, size_t K)
{
    if (N > 0 && K > 0)
        memcpy(w, packed, N * K * sizeof *w);
}

void txk_gemm_f32_ref(const struct tx_gemm_f32 *job)
{
    for (size_t m = 0; m < job->M; m++) {
        const float *a = job->a + m * job->lda;
        for (size_t n = job->n0; n < job->n1; n++) {
            const float *w = job->w + n * job->K;
            double acc = 0;
            for (size_t k = 0; k < job->K; k++)
                acc += (double)a[k] * w[k];
            job->out[m * job->ldo + n] = txk_epilogue_one_ref((float)acc, m, n, &job->epilogue);
        }
    }
}
