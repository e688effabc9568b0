/* Rows of which a few numbers are hundreds of times as large as the others, in a product of int8: a row's int8 would have no
 * digits left for the others. So each row's few are taken out, the rest is quantised and multiplied, and what the few would
 * have added is added in float32, by the same weights. What is taken out of a row depends on that row alone.
 * Source: LLM.int8() (arXiv 2208.07339), there by columns of a whole batch. */
#ifndef TX_OUTLIERS_H
#define TX_OUTLIERS_H

#include "linear.h"

enum { TX_OUTLIERS = 64 }; /* of a row, at most */

struct tx_outliers {
    uint32_t *count;    /* [rows] */
    uint32_t *at;       /* [rows, TX_OUTLIERS], columns */
    float *value;       /* [rows, TX_OUTLIERS] */
};

struct tx_outliers tx_outliers_take(struct tx_arena *arena, size_t rows);

/* The outliers of x [rows,K], bfloat16, become zero there and go to `outliers`. */
void tx_outliers_split(const struct tx_run *run, const struct tx_outliers *outliers, struct tx_mat x, size_t rows, size_t K);

/* x [rows,N] float32 += outliers W^T, of a linear with columns. */
void tx_outliers_add(const struct tx_run *run, const struct tx_outliers *outliers, const struct tx_linear *linear,
                     struct tx_mat x, size_t rows);

#endif
