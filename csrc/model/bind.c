#include "bind.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct tx_tensor *add(struct tx_tensors *t)
{
    if (t->count == t->room) {
        const size_t room = t->room ? 2 * t->room : 64;
        struct tx_tensor *list = realloc(t->list, room * sizeof *list);
        if (!list) {
            t->failed = 1;
            return NULL;
        }
        t->list = list;
        t->room = room;
    }
    struct tx_tensor *tensor = &t->list[t->count++];
    memset(tensor, 0, sizeof *tensor);
    return tensor;
}

static void add_named(struct tx_tensors *t, float **array, struct tx_linear *linear, int rank, size_t rows, size_t columns,
                      const char *prefix, const char *suffix)
{
    struct tx_tensor *tensor = add(t);
    if (!tensor)
        return;
    snprintf(tensor->name, sizeof tensor->name, "%s%s", prefix, suffix);
    tensor->rank = rank;
    tensor->shape[0] = rows;
    tensor->shape[1] = columns;
    tensor->array = array;
    tensor->linear = linear;
}

#define FORMAT(text)                              \
    char text[TX_NAME_SIZE - 8];                  \
    va_list args;                                 \
    va_start(args, format);                       \
    vsnprintf(text, sizeof text, format, args);   \
    va_end(args)

void tx_bind_array(struct tx_tensors *t, float **array, int rank, size_t rows, size_t columns, const char *format, ...)
{
    FORMAT(name);
    add_named(t, array, NULL, rank, rows, columns, name, "");
}

void tx_bind_cube(struct tx_tensors *t, float **array, const size_t shape[3], const char *format, ...)
{
    FORMAT(name);
    add_named(t, array, NULL, 3, shape[0], shape[1], name, "");
    if (!t->failed)
        t->list[t->count - 1].shape[2] = shape[2];
}

void tx_bind_linear(struct tx_tensors *t, struct tx_linear *linear, size_t N, size_t K, int bias, const char *format, ...)
{
    FORMAT(prefix);
    linear->N = N;
    linear->K = K;
    add_named(t, NULL, linear, 2, N, K, prefix, ".weight");
    if (bias)
        add_named(t, &linear->bias, NULL, 1, N, 0, prefix, ".bias");
}

void tx_bind_table(struct tx_tensors *t, struct tx_table *table, const char *name)
{
    struct tx_tensor *tensor = add(t);
    if (!tensor)
        return;
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    tensor->rank = 2;
    tensor->shape[0] = table->rows;
    tensor->shape[1] = table->D;
    tensor->table = table;
}

void tx_bind_norm(struct tx_tensors *t, struct tx_norm *norm, size_t D, const char *format, ...)
{
    FORMAT(prefix);
    add_named(t, &norm->weight, NULL, 1, D, 0, prefix, ".weight");
    add_named(t, &norm->bias, NULL, 1, D, 0, prefix, ".bias");
}

void tx_bind_block(struct tx_tensors *t, struct tx_block *block, int affine, int qkv_bias, const char *prefix, size_t index)
{
    const size_t D = block->D;
    struct tx_linear *const weights[] = {&block->qkv,        &block->proj, &block->cross_q, &block->cross_kv,
                                         &block->cross_proj, &block->fc1,  &block->fc2};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        weights[i]->dtype = t->bulk;
        weights[i]->fit = 1; /* not in text encoders: outliers of their inputs carry the rounding of weights far */
    }
    char p[TX_NAME_SIZE - 32];
    snprintf(p, sizeof p, "%sblocks.%zu", prefix, index);
    if (affine)
        tx_bind_norm(t, &block->norm1, D, "%s.norm1", p);
    tx_bind_linear(t, &block->qkv, 3 * D, D, qkv_bias, "%s.attn.qkv", p);
    tx_bind_linear(t, &block->proj, D, D, 1, "%s.attn.proj", p);
    if (block->cross) {
        tx_bind_norm(t, &block->norm_cross, D, "%s.norm_cross", p);
        tx_bind_linear(t, &block->cross_q, D, D, 1, "%s.cross.q", p);
        tx_bind_linear(t, &block->cross_kv, 2 * D, D, 1, "%s.cross.kv", p);
        tx_bind_linear(t, &block->cross_proj, D, D, 1, "%s.cross.proj", p);
    }
    if (affine)
        tx_bind_norm(t, &block->norm2, D, "%s.norm2", p);
    tx_bind_linear(t, &block->fc1, block->F, D, 1, "%s.mlp.fc1", p);
    tx_bind_linear(t, &block->fc2, D, block->F, 1, "%s.mlp.fc2", p);
    block->qkv.next = &block->proj;
    block->proj.next = block->cross ? &block->cross_q : &block->fc1;
    block->cross_q.next = &block->cross_proj;
    block->cross_proj.next = &block->fc1;
    block->fc1.next = &block->fc2;
}

size_t tx_tensor_elements(const struct tx_tensor *tensor)
{
    size_t elements = 1;
    for (int i = 0; i < tensor->rank; i++)
        elements *= tensor->shape[i];
    return elements;
}

void tx_tensors_plan(const struct tx_tensors *t, struct tx_arena *arena, const struct tx_kernels *kernels)
{
    for (size_t i = 0; i < t->count; i++) {
        const struct tx_tensor *tensor = &t->list[i];
        if (tensor->linear) {
            tx_linear_plan(tensor->linear, arena, kernels);
        } else if (tensor->table) {
            tx_table_plan(tensor->table, arena, kernels);
        } else {
            *tensor->array = tx_arena_take(arena, tx_tensor_elements(tensor), sizeof(float));
        }
    }
}
