#include "embedding_table.h"

#include <string.h>

#include "../base/arena.h"
#include "../base/pool.h"

enum { FILL_ROWS = 256 };

void tx_table_plan(struct tx_table *table, struct tx_arena *arena, const struct tx_kernels *kernels)
{
    table->kernels = kernels;
    table->ld = table->dtype == TX_F32 ? table->D : tx_k_padded(table->D); /* as round_bf16 and quantize_int8 write rows */
    table->data = tx_arena_take(arena, table->rows, table->ld * tx_dtype_size(table->dtype));
    table->scale = table->dtype == TX_INT8 ? tx_arena_take(arena, table->rows, sizeof(float)) : NULL;
}

struct fill_job {
    const struct tx_table *table;
    const struct tx_values *values;
};

static float value_at(const struct tx_values *v, size_t row, size_t i)
{
    return v->dtype == TX_F32    ? ((const float *)v->data)[i]
           : v->dtype == TX_BF16 ? tx_float_of_bf16(((const uint16_t *)v->data)[i])
                                 : (float)((const int8_t *)v->data)[i] * v->scale[row];
}

static void fill_task(void *arg, size_t task, int worker)
{
    (void)worker;
    const struct fill_job *job = arg;
    const struct tx_table *t = job->table;
    const struct tx_values *v = job->values;
    const size_t r0 = task * FILL_ROWS, rows = tx_min(FILL_ROWS, t->rows - r0), D = t->D, size = tx_dtype_size(v->dtype);
    const char *from = (const char *)v->data + r0 * D * size;
    char *to = (char *)t->data + r0 * t->ld * tx_dtype_size(t->dtype);
    if (t->dtype == v->dtype) {
        for (size_t r = 0; r < rows; r++)
            memcpy(to + r * t->ld * size, from + r * D * size, D * size);
        if (t->scale)
            memcpy(t->scale + r0, v->scale + r0, rows * sizeof(float));
    } else if (t->dtype == TX_INT8) {
        t->kernels->quantize_int8((int8_t *)to, t->ld, t->scale + r0, from, v->dtype == TX_BF16, D, rows, D);
    } else if (t->dtype == TX_BF16 && v->dtype == TX_F32) {
        t->kernels->round_bf16((uint16_t *)to, t->ld, (const float *)from, D, rows, D);
    } else {
        for (size_t r = 0; r < rows; r++)
            for (size_t d = 0; d < D; d++) {
                const float x = value_at(v, r0 + r, (r0 + r) * D + d);
                if (t->dtype == TX_F32)
                    ((float *)to)[r * t->ld + d] = x;
                else
                    ((uint16_t *)to)[r * t->ld + d] = tx_bf16_of_float(x);
            }
    }
}

void tx_table_fill(struct tx_table *table, const struct tx_values *values, int threads)
{
    struct fill_job job = {table, values};
    tx_pool_run(threads, fill_task, &job, (table->rows + FILL_ROWS - 1) / FILL_ROWS);
}

void tx_table_export(const struct tx_table *table, void *data, float *scale)
{
    const size_t size = tx_dtype_size(table->dtype);
    for (size_t r = 0; r < table->rows; r++)
        memcpy((char *)data + r * table->D * size, (const char *)table->data + r * table->ld * size, table->D * size);
    if (table->scale)
        memcpy(scale, table->scale, table->rows * sizeof *scale);
}

void tx_table_add(const struct tx_table *table, size_t r, float *out)
{
    const struct tx_values values = {.data = table->data, .dtype = table->dtype, .scale = table->scale};
    for (size_t d = 0; d < table->D; d++)
        out[d] += value_at(&values, r, r * table->ld + d);
}
