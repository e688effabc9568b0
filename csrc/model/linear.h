/* A packed weight, and y = epilogue(x W^T + b) over many rows on all threads. The only place that knows there is a BLAS. */
#ifndef TX_LINEAR_H
#define TX_LINEAR_H

#include "../base/base.h"
#include "../kernels/kernels.h"
#include "run.h"

struct tx_linear {
    size_t N, K;
    float *w;           /* packed by kernels->gemm_f32_pack, or row-major [N,K] where a BLAS multiplies */
    float *bias;        /* [N] or NULL */
    const struct tx_kernels *kernels; /* who packed it */
};

/* Elements of the packed form with these kernels. */
size_t tx_linear_packed(const struct tx_kernels *kernels, size_t N, size_t K);

/* Pack row-major w [N,K] into linear->w, on all threads; and back, bit for bit. */
void tx_linear_pack(struct tx_linear *linear, const float *w, int threads);
void tx_linear_unpack(const struct tx_linear *linear, float *w);

/* Bytes of scratch that one worker needs for segments of up to this many rows. */
size_t tx_linear_scratch(const struct tx_kernels *kernels, size_t longest_segment);

/* out [rows,N] = epilogue(a [rows,K] W^T + bias); epilogue's own bias is filled in here. */
void tx_linear_run(const struct tx_run *run, const struct tx_linear *linear, float *out, size_t ldo, const float *a, size_t lda,
                   const struct tx_seq *seq, const struct tx_epilogue_f32 *epilogue);

/* OpenBLAS's own threads stay off: our pool calls it, one thread a call. */
void tx_blas_init(void);
const char *tx_blas_config(void);

#endif
