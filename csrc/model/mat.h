/* Rows of activations in the dtype that a product takes them in. The residual stream is float32 in every model; what goes into
 * a product is the model's dtype, and what attention reads is bfloat16 in bfloat16 and int8 models. */
#ifndef TX_MAT_H
#define TX_MAT_H

#include <string.h>

#include "../base/arena.h"
#include "../kernels/kernels.h"

struct tx_mat {
    void *data;             /* [rows, columns] float, uint16_t (bfloat16) or int8_t */
    size_t ld;              /* elements between rows */
    enum tx_dtype dtype;
    float *scale;           /* [rows], int8 only */
};

/* What weights of this dtype are multiplied with. */
static inline enum tx_dtype tx_operand_dtype(enum tx_dtype weights)
{
    return weights == TX_INT4 ? TX_INT8 : weights;
}

/* Of an activation, or of a weight other than int4. */
static inline size_t tx_dtype_size(enum tx_dtype dtype)
{
    return dtype == TX_F32 ? sizeof(float) : dtype == TX_BF16 ? sizeof(uint16_t) : sizeof(int8_t);
}

/* The distance between rows with D columns: an odd number of cache lines, so that the rows that a kernel reads side by side do
 * not fall into the same sets of the first-level cache; and for bfloat16 and int8 room for the zeros that kernels.h asks
 * for. */
static inline size_t tx_mat_ld(enum tx_dtype dtype, size_t D)
{
    if (dtype == TX_F32)
        return tx_ld(D);
    const size_t size = tx_dtype_size(dtype), lines = tx_k_padded(D) * size / TX_ALIGN;
    return (lines | 1) * TX_ALIGN / size;
}

/* Room for rows of D columns in the dtype that weights of `dtype` are multiplied with, of which bfloat16 and int8 end with the
 * zeros that kernels.h asks for. */
static inline struct tx_mat tx_mat_take(struct tx_arena *arena, enum tx_dtype dtype, size_t rows, size_t D)
{
    dtype = tx_operand_dtype(dtype);
    struct tx_mat mat = {.ld = tx_mat_ld(dtype, D), .dtype = dtype};
    mat.data = tx_arena_take(arena, rows, mat.ld * tx_dtype_size(dtype));
    if (dtype == TX_INT8)
        mat.scale = tx_arena_take(arena, rows, sizeof(float));
    const size_t size = tx_dtype_size(dtype), padding = dtype == TX_F32 ? 0 : tx_k_padded(D) - D;
    for (size_t r = 0; mat.data && padding && r < rows; r++)
        memset((char *)mat.data + (r * mat.ld + D) * size, 0, padding * size);
    return mat;
}

static inline struct tx_mat tx_mat_f32(const float *data, size_t ld)
{
    return (struct tx_mat){.data = (void *)data, .ld = ld, .dtype = TX_F32};
}

/* The same from row r and column c on. */
static inline struct tx_mat tx_mat_at(struct tx_mat mat, size_t r, size_t c)
{
    mat.data = (char *)mat.data + (r * mat.ld + c) * tx_dtype_size(mat.dtype);
    mat.scale = mat.scale ? mat.scale + r : NULL;
    return mat;
}

#endif
