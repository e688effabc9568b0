/* A packed weight, and y = epilogue(x W^T + b) over many rows on all threads. The only place that knows there is a BLAS. */
#ifndef TX_LINEAR_H
#define TX_LINEAR_H

#include "../base/base.h"
#include "../kernels/kernels.h"
#include "mat.h"
#include "run.h"

struct tx_linear {
    const char *name;   /* of its weight in the model's list */
    size_t N, K;
    enum tx_dtype dtype;
    void *w;            /* packed by the kernels below, or row-major [N,K] float32 where a BLAS multiplies */
    float *scale;       /* [N], int8 and int4 */
    float *bias;        /* [N] or NULL */
    int fit;            /* of int8: may be rounded to what is multiplied fastest (gemm_int8_fit); set before it is packed */
    int by_column;      /* of int8: whether columns are kept, too; set before it is planned */
    struct tx_linear *fed_by; /* by column: whose last K rows are its input but for a function that factors pass (packed
                               * before, no bias); then those carry what makes its columns even. Or NULL */
    int8_t *columns;    /* [K,N], the same numbers as w, for what is added apart (outliers.h); or NULL */
    const struct tx_kernels *kernels; /* who packed it */
    const struct tx_linear *next; /* which weight is read after it, or NULL: a hint */
};

/* A weight's values as they come or go, row-major [N,K]: float32, or bfloat16, or int8 with a scale [N]; or int4, rows of q
 * (kernels.h) with d [N] as scale and s of the groups. */
struct tx_values {
    const void *data;
    enum tx_dtype dtype;
    const float *scale;
    const uint8_t *group_scale;
};

/* values [rows,columns] of any dtype as float32. */
void tx_widen(float *out, const struct tx_values *values, size_t rows, size_t columns);

/* Memory of the packed form; on an arena without memory this only measures. */
void tx_linear_plan(struct tx_linear *linear, struct tx_arena *arena, const struct tx_kernels *kernels);

/* Pack values of any dtype into linear->w, on all threads. int8 from int8 keeps every number and its
 * scales, where it is not fitted; so do int4 from int4 and int8 from int4. */
enum tx_status tx_linear_pack(struct tx_linear *linear, const struct tx_values *values, int threads, struct tx_error *err);
/* The values in the weight's own dtype, as struct tx_values has them. */
void tx_linear_unpack(const struct tx_linear *linear, void *data, float *scale, uint8_t *group_scale);

/* Bytes of scratch that one worker needs for segments of up to this many rows. */
size_t tx_linear_scratch(const struct tx_kernels *kernels, size_t longest_segment);
/* And for this product whatever the segments are. */
size_t tx_linear_own_scratch(const struct tx_linear *linear);

/* out [rows,N] = epilogue(a [rows,K] W^T + bias); epilogue's own bias is filled in here. a has the weight's dtype; out is
 * float32, or bfloat16 where the weight is not float32 and there is no residual. */
void tx_linear_run(const struct tx_run *run, const struct tx_linear *linear, struct tx_mat out, struct tx_mat a,
                   const struct tx_seq *seq, const struct tx_epilogue_f32 *epilogue);

/* Some columns of another product that goes along with one: while the one's tasks multiply they fetch the other's weight, and
 * then multiply with what has come. Memory would rest beside the one, and multipliers beside the other, where that has few
 * rows. */
struct tx_beside {
    const struct tx_linear *linear; /* of a dtype that tx_linear_beside says 1 for */
    struct tx_mat out, a;
    size_t rows;
    size_t from, to, of;            /* columns from * N / of .. to * N / of, in whole panels */
};

/* Whether this CPU's products fetch something beside them. */
int tx_linear_beside(const struct tx_kernels *kernels, enum tx_dtype dtype);

/* tx_linear_run, and `beside` where that is not NULL. */
void tx_linear_run_beside(const struct tx_run *run, const struct tx_linear *linear, struct tx_mat out, struct tx_mat a,
                          const struct tx_seq *seq, const struct tx_epilogue_f32 *epilogue, const struct tx_beside *beside);

/* to [rows,D] <- from (float32 or bfloat16), in to's dtype (bfloat16 or int8), padded with zeros. */
void tx_convert_run(const struct tx_run *run, struct tx_mat to, struct tx_mat from, size_t rows, size_t D);

/* Whether an element's bits may change with the rows that its image has in the product, as a BLAS's do. */
int tx_linear_bits_follow_rows(const struct tx_kernels *kernels, enum tx_dtype dtype);

/* OpenBLAS's own threads stay off: our pool calls it, one thread a call. */
void tx_blas_init(void);
const char *tx_blas_config(void);

#endif
