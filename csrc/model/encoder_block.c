#include "encoder_block.h"

#include <stdio.h>

#include "../base/arena.h"
#include "../base/pool.h"

enum { GATED_ROWS = 8 }; /* that a thread takes at a time */

void tx_encoder_norm_bind(struct tx_tensors *tensors, struct tx_norm *norm, size_t D, int rms, const char *prefix)
{
    if (rms)
        tx_bind_array(tensors, &norm->weight, 1, D, 0, "%s.weight", prefix);
    else
        tx_bind_norm(tensors, norm, D, "%s", prefix);
}

void tx_encoder_block_bind(struct tx_encoder_block *b, struct tx_tensors *t, int biases, size_t index)
{
    char name[TX_NAME_SIZE - 32];
    snprintf(name, sizeof name, "blocks.%zu.norm1", index);
    tx_encoder_norm_bind(t, &b->norm1, b->D, b->rms, name);
    tx_bind_linear(t, &b->qkv, 3 * b->H * b->Dh, b->D, biases, "blocks.%zu.attn.qkv", index);
    tx_bind_linear(t, &b->proj, b->D, b->H * b->Dh, biases, "blocks.%zu.attn.proj", index);
    snprintf(name, sizeof name, "blocks.%zu.norm2", index);
    tx_encoder_norm_bind(t, &b->norm2, b->D, b->rms, name);
    tx_bind_linear(t, &b->fc1, (b->gated ? 2 : 1) * b->F, b->D, biases, "blocks.%zu.mlp.fc1", index);
    tx_bind_linear(t, &b->fc2, b->D, b->F, biases, "blocks.%zu.mlp.fc2", index);
    b->qkv.next = &b->proj;
    b->proj.next = &b->fc1;
    b->fc1.next = &b->fc2;
}

void tx_encoder_block_plan(const struct tx_encoder_block *b, struct tx_encoder_buffers *buffers, struct tx_arena *arena,
                           size_t rows)
{
    const enum tx_dtype attention = tx_attention_dtype(b->qkv.dtype);
    *buffers = (struct tx_encoder_buffers){
        .qkv = tx_mat_take(arena, attention, rows, 3 * b->H * b->Dh),
        .attended = tx_mat_take(arena, attention, rows, b->H * b->Dh),
        .inner = tx_mat_take(arena, attention, rows, b->F),
    };
    if (!b->norm_after || b->qkv.dtype != TX_F32) /* else x itself is what products take */
        buffers->h = tx_mat_take(arena, b->qkv.dtype, rows, b->D);
    if (b->gated)
        buffers->wide = tx_mat_take(arena, attention, rows, 2 * b->F);
    buffers->attended_low = b->proj.dtype == attention ? buffers->attended : tx_mat_take(arena, b->proj.dtype, rows,
                                                                                         b->H * b->Dh);
    buffers->inner_low = b->fc2.dtype == attention ? buffers->inner : tx_mat_take(arena, b->fc2.dtype, rows, b->F);
    if (b->fc2.by_column)
        buffers->outliers = tx_outliers_take(arena, rows);
}

size_t tx_encoder_block_scratch(const struct tx_encoder_block *b, const struct tx_kernels *kernels, size_t longest)
{
    return tx_max(tx_linear_scratch(kernels, longest), tx_attend_scratch(kernels, b->qkv.dtype, b->biased, longest, b->Dh));
}

void tx_encoder_norm_run(const struct tx_run *run, const struct tx_encoder_block *block, const struct tx_norm *norm,
                         struct tx_mat out,
                         struct tx_mat x, size_t rows)
{
    tx_norm_run(run, out, &(struct tx_norm_f32){
        .x = x.data, .ldx = x.ld, .M = rows, .D = block->D, .eps = block->eps, .rms = block->rms, .weight = norm->weight,
        .bias = norm->bias,
    });
}

struct gated_job {
    const struct tx_run *run;
    struct tx_mat out, wide;
    size_t rows, F;
    int act;
};

static void gated_task(void *arg, size_t task, int worker)
{
    (void)worker;
    const struct gated_job *job = arg;
    const size_t r0 = task * GATED_ROWS;
    const struct tx_mat out = tx_mat_at(job->out, r0, 0), x = tx_mat_at(job->wide, r0, 0), y = tx_mat_at(job->wide, r0, job->F);
    const struct tx_gated gated = {.out = out.data, .ldo = out.ld, .x = x.data, .y = y.data, .ldx = x.ld,
                                   .M = tx_min(GATED_ROWS, job->rows - r0), .F = job->F, .act = job->act};
    (out.dtype == TX_F32 ? job->run->kernels->gated_f32 : job->run->kernels->gated_bf16)(&gated);
}

/* `m` in the dtype of the product that takes it. */
static struct tx_mat lowered(const struct tx_run *run, struct tx_mat low, struct tx_mat m, size_t rows, size_t D)
{
    if (low.dtype != m.dtype)
        tx_convert_run(run, low, m, rows, D);
    return low;
}

/* What a branch begins with: the norm of x or, where norms come after, x. */
static struct tx_mat branch(const struct tx_run *run, const struct tx_encoder_block *b, const struct tx_norm *norm,
                            const struct tx_encoder_buffers *buffers, struct tx_mat x, size_t rows)
{
    if (b->norm_after)
        return lowered(run, buffers->h.data ? buffers->h : x, x, rows, b->D);
    tx_encoder_norm_run(run, b, norm, buffers->h, x, rows);
    return buffers->h;
}

/* x += a W^T + b, and its norm where that comes after. */
static void join(const struct tx_run *run, const struct tx_encoder_block *b, const struct tx_linear *linear,
                 const struct tx_norm *norm,
                 struct tx_mat x, struct tx_mat a, const struct tx_seq *seq)
{
    tx_linear_run(run, linear, x, a, seq, &(struct tx_epilogue_f32){.residual = x.data, .ldr = x.ld});
    if (b->norm_after)
        tx_encoder_norm_run(run, b, norm, x, x, tx_seq_rows(seq));
}

void tx_encoder_block_run(const struct tx_run *run, const struct tx_encoder_block *b, struct tx_mat x, const struct tx_seq *seq,
                          const struct tx_encoder_buffers *buffers, const struct tx_score_bias *bias, const size_t *key_count,
                              size_t index)
{
    const size_t rows = tx_seq_rows(seq), inside = b->H * b->Dh;
    tx_linear_run(run, &b->qkv, buffers->qkv, branch(run, b, &b->norm1, buffers, x, rows), seq, NULL);
    tx_attend_run(run, &(struct tx_attend){
        .products = b->qkv.dtype, .out = buffers->attended, .q = buffers->qkv, .k = tx_mat_at(buffers->qkv, 0, inside),
        .v = tx_mat_at(buffers->qkv, 0, 2 * inside), .H = b->H, .Dh = b->Dh, .scale = b->scale, .queries = seq, .keys = seq,
        .key_count = key_count, .bias = bias->bias, .ldbias = bias->ld,
    });
    join(run, b, &b->proj, &b->norm1, x, lowered(run, buffers->attended_low, buffers->attended, rows, inside), seq);
    tx_run_tap(run, "blocks.%zu.attn", index, x.data, rows, b->D, x.ld);

    const struct tx_mat h = branch(run, b, &b->norm2, buffers, x, rows);
    if (b->gated) {
        struct gated_job job = {run, buffers->inner, buffers->wide, rows, b->F, b->act};
        tx_linear_run(run, &b->fc1, buffers->wide, h, seq, NULL);
        tx_pool_run(run->threads, gated_task, &job, (rows + GATED_ROWS - 1) / GATED_ROWS);
    } else {
        tx_linear_run(run, &b->fc1, buffers->inner, h, seq, &(struct tx_epilogue_f32){.act = b->act});
    }
    if (b->fc2.by_column)
        tx_outliers_split(run, &buffers->outliers, buffers->inner, rows, b->F);
    join(run, b, &b->fc2, &b->norm2, x, lowered(run, buffers->inner_low, buffers->inner, rows, b->F), seq);
    if (b->fc2.by_column)
        tx_outliers_add(run, &buffers->outliers, &b->fc2, x, rows);
    tx_run_tap(run, "blocks.%zu", index, x.data, rows, b->D, x.ld);
}
