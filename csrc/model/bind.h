/* The list of a model's tensors: name, shape and where it goes, one line each in the model's own file. From this one list come
 * the table of names and shapes, loading, export and the memory that weights take. */
#ifndef TX_BIND_H
#define TX_BIND_H

#include "../base/arena.h"
#include "block.h"
#include "linear.h"
#include "embedding_table.h"

enum { TX_NAME_SIZE = 80, TX_MAX_RANK = 3 };

struct tx_tensor {
    char name[TX_NAME_SIZE];
    int rank;
    size_t shape[TX_MAX_RANK];
    float **array;              /* kept as it is: where its pointer goes; or NULL */
    struct tx_linear *linear;   /* packed: the linear it is the weight of; or NULL */
    struct tx_table *table;     /* looked up; or NULL */
};

struct tx_tensors {
    enum tx_dtype bulk;         /* of the weights inside blocks, where nearly all numbers are */
    enum tx_dtype edge;         /* of others that are large; small ones stay float32 */
    struct tx_tensor *list;
    size_t count, room;
    int failed;                 /* no memory for the list */
};

/* Each adds to the list; `format` may use the arguments that follow. */
void tx_bind_array(struct tx_tensors *t, float **array, int rank, size_t rows, size_t columns, const char *format, ...)
    __attribute__((format(printf, 6, 7)));
void tx_bind_cube(struct tx_tensors *t, float **array, const size_t shape[3], const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* PREFIX.weight [N,K] in linear->dtype (set before; float32 where it was not) and, where wanted, PREFIX.bias [N]. */
void tx_bind_linear(struct tx_tensors *t, struct tx_linear *linear, size_t N, size_t K, int bias, const char *format, ...)
    __attribute__((format(printf, 6, 7)));
/* [table->rows, table->D], set before as its dtype is. */
void tx_bind_table(struct tx_tensors *t, struct tx_table *table, const char *name);
/* PREFIX.weight and PREFIX.bias, [D]. */
void tx_bind_norm(struct tx_tensors *t, struct tx_norm *norm, size_t D, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* All of a block, its weights in t->bulk. affine: the norms have weights (no adaLN); cross: it has a cross-attention. */
void tx_bind_block(struct tx_tensors *t, struct tx_block *block, int affine, int qkv_bias, const char *prefix, size_t index);

size_t tx_tensor_elements(const struct tx_tensor *tensor);

/* Memory of all tensors: on an arena without memory this only measures. */
void tx_tensors_plan(const struct tx_tensors *t, struct tx_arena *arena, const struct tx_kernels *kernels);

#endif
