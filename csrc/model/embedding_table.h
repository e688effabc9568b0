/* A table of embeddings: rows that are looked up, never multiplied, kept as they are in the model's dtype. */
#ifndef TX_EMBEDDING_TABLE_H
#define TX_EMBEDDING_TABLE_H

#include "linear.h"

struct tx_table {
    size_t rows, D;
    size_t ld;              /* elements between rows */
    enum tx_dtype dtype;
    void *data;             /* [rows, D] */
    float *scale;           /* [rows], int8 only */
    const struct tx_kernels *kernels; /* who rounds */
};

/* Memory; on an arena without memory this only measures. */
void tx_table_plan(struct tx_table *table, struct tx_arena *arena, const struct tx_kernels *kernels);
/* From values of any dtype, on all threads. int8 from int8 keeps every number and its scales. */
void tx_table_fill(struct tx_table *table, const struct tx_values *values, int threads);
/* The values in the table's own dtype: data [rows, D], and scale [rows] for int8. */
void tx_table_export(const struct tx_table *table, void *data, float *scale);
/* out [D] += row r */
void tx_table_add(const struct tx_table *table, size_t r, float *out);

#endif
