#include "block.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../base/arena.h"
#include "../base/pool.h"

enum { NORM_ROWS = 16 }; /* rows of a norm that a thread takes at a time */

void tx_block_plan(const struct tx_block *block, struct tx_block_buffers *b, struct tx_arena *arena, size_t rows,
                   size_t kept_rows)
{
    const enum tx_dtype dtype = tx_operand_dtype(block->qkv.dtype), attention = tx_attention_dtype(dtype);
    const size_t D = block->D, F = block->F;
    *b = (struct tx_block_buffers){
        .h = tx_mat_take(arena, dtype, rows, D),
        .wide = tx_mat_take(arena, attention, rows, tx_max(3 * D, F)),
        .kept = tx_mat_take(arena, TX_F32, kept_rows, D),
    };
    b->attended = b->h;
    if (dtype == TX_INT8) {
        b->attended = tx_mat_take(arena, attention, rows, D);
        b->inner = tx_mat_take(arena, dtype, rows, F);
    }
}

size_t tx_block_scratch(const struct tx_block *block, const struct tx_kernels *kernels, size_t longest, size_t longest_text)
{
    const size_t keys = tx_max(longest, longest_text);
    return tx_max(tx_linear_scratch(kernels, keys), tx_attend_scratch(kernels, block->qkv.dtype, 0, keys, block->D / block->H));
}

struct norm_job {
    const struct tx_run *run;
    const struct tx_norm_f32 *all;
    struct tx_mat out;
};

static void norm_task(void *arg, size_t task, int worker)
{
    (void)worker;
    const struct norm_job *job = arg;
    const struct tx_kernels *k = job->run->kernels;
    struct tx_norm_f32 part = *job->all;
    const size_t r0 = task * NORM_ROWS;
    const struct tx_mat out = tx_mat_at(job->out, r0, 0);
    part.M = tx_min(NORM_ROWS, part.M - r0);
    part.ldo = out.ld;
    part.x += r0 * part.ldx;
    part.group = part.group ? part.group + r0 : NULL;
    if (out.dtype == TX_F32) {
        part.out = out.data;
        k->norm_f32(&part);
    } else if (out.dtype == TX_BF16) {
        k->norm_bf16(&part, out.data);
    } else {
        k->norm_int8(&part, out.data, out.scale);
    }
}

void tx_norm_run(const struct tx_run *run, struct tx_mat out, const struct tx_norm_f32 *norm)
{
    struct norm_job job = {run, norm, out};
    tx_pool_run(run->threads, norm_task, &job, (norm->M + NORM_ROWS - 1) / NORM_ROWS);
}

static void norm(const struct tx_run *run, const struct tx_block *block, struct tx_mat out, struct tx_mat x, size_t rows,
                 const struct tx_norm *weights, const struct tx_modulation *modulation, size_t part)
{
    tx_norm_run(run, out,
                &(struct tx_norm_f32){
                    .x = x.data, .ldx = x.ld, .M = rows, .D = block->D,
                    .eps = weights == &block->norm2 ? block->mlp_eps : block->eps, .weight = weights->weight,
                    .bias = weights->bias, .shift = modulation ? modulation->rows + part * block->D : NULL,
                    .scale = modulation ? modulation->rows + (part + 1) * block->D : NULL,
                    .ldm = modulation ? modulation->ld : 0, .group = modulation ? modulation->group : NULL,
                });
}

/* The share in modulation->next that goes beside `linear`: as much of it as there is of the block's weights in this one. */
static const struct tx_beside *beside(struct tx_beside *share, const struct tx_block *block,
                                      const struct tx_modulation *modulation, const struct tx_linear *linear)
{
    const struct tx_linear *const all[] = {&block->qkv, &block->proj, &block->fc1, &block->fc2};
    if (!modulation || !modulation->next)
        return NULL;
    *share = *modulation->next;
    share->of = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i] == linear)
            share->from = share->of;
        share->of += all[i]->N * all[i]->K;
        if (all[i] == linear)
            share->to = share->of;
    }
    return share;
}

/* x += gate * (a W^T + b) */
static void add(const struct tx_run *run, const struct tx_linear *linear, struct tx_mat x, struct tx_mat a,
                const struct tx_seq *seq, const struct tx_modulation *modulation, size_t part, const struct tx_beside *beside)
{
    tx_linear_run_beside(run, linear, x, a, seq, &(struct tx_epilogue_f32){
        .residual = x.data, .ldr = x.ld,
        .gate = modulation ? modulation->rows + part * linear->N : NULL,
        .ldg = modulation ? modulation->ld : 0, .group = modulation ? modulation->group : NULL,
    }, beside);
}

static void tap(const struct tx_run *run, const char *name, size_t index, const char *what, struct tx_mat x, size_t rows,
                size_t D)
{
    char format[96];
    if (!run->tap)
        return;
    snprintf(format, sizeof format, "%sblocks.%%zu%s", name, what);
    tx_run_tap(run, format, index, x.data, rows, D, x.ld);
}

/* buffers->wide as a matrix of D columns. */
static struct tx_mat wide_as(const struct tx_block_buffers *buffers, size_t D)
{
    struct tx_mat wide = buffers->wide;
    wide.ld = tx_mat_ld(wide.dtype, D);
    return wide;
}

/* The MLP's inside as fc2 takes it. */
static struct tx_mat inner_for(const struct tx_run *run, const struct tx_block_buffers *buffers, struct tx_mat wide,
                               size_t rows, size_t F)
{
    const size_t padding = tx_k_padded(F) - F;
    if (buffers->inner.data) {
        tx_convert_run(run, buffers->inner, wide, rows, F);
        return buffers->inner;
    }
    /* These places held queries and keys a moment ago. */
    if (wide.dtype == TX_BF16 && padding)
        for (size_t r = 0; r < rows; r++)
            memset(tx_mat_at(wide, r, F).data, 0, padding * sizeof(uint16_t));
    return wide;
}

/* What attention gave, as the projection takes it. */
static struct tx_mat attended_for(const struct tx_run *run, const struct tx_block_buffers *buffers, size_t rows, size_t D)
{
    if (buffers->attended.dtype != buffers->h.dtype)
        tx_convert_run(run, buffers->h, buffers->attended, rows, D);
    return buffers->h;
}

/* ---- rows that are the same in every call ---- */

void tx_block_plan_fixed(struct tx_block *block, struct tx_arena *arena, size_t first, size_t count)
{
    block->fixed_qkv = tx_mat_take(arena, tx_attention_dtype(block->qkv.dtype), count, 3 * block->D);
    block->fixed_first = first;
    block->fixed_count = count;
}

/* Norm and queries, keys, values of `rows` rows of x into as many of qkv. */
static void project(const struct tx_run *run, const struct tx_block *block, struct tx_mat qkv, struct tx_mat x, struct tx_mat h,
                    size_t rows)
{
    const size_t start[2] = {0, rows};
    if (!rows)
        return;
    norm(run, block, h, x, rows, &block->norm1, NULL, 0);
    tx_linear_run(run, &block->qkv, qkv, h, &(struct tx_seq){1, start}, NULL);
}

/* ---- rotary positions ---- */

void tx_block_plan_turns(struct tx_block *block, struct tx_arena *arena)
{
    block->turns = tx_mat_take(arena, TX_F32, block->rotated, block->D);
}

void tx_block_fill_turns(const struct tx_block *block)
{
    const size_t half = block->D / block->H / 2;
    for (size_t h = 0; h < block->H; h++)
        for (size_t r = 0; r < block->rotated; r++) {
            const float *angles = block->angles + (h * block->rotated + r) * half;
            float *turns = tx_mat_at(block->turns, r, 2 * h * half).data;
            for (size_t j = 0; j < half; j++) {
                turns[2 * j] = cosf(angles[j]);
                turns[2 * j + 1] = sinf(angles[j]);
            }
        }
}

struct rotate_job {
    const struct tx_run *run;
    const struct tx_block *block;
    struct tx_mat qkv;
    const struct tx_seq *seq;
    size_t first_part;      /* 0: queries and keys; 1: keys alone */
};

static void rotate_task(void *arg, size_t task, int worker)
{
    (void)worker;
    const struct rotate_job *job = arg;
    const struct tx_block *block = job->block;
    const struct tx_kernels *kernels = job->run->kernels;
    const size_t parts = (block->rotated + NORM_ROWS - 1) / NORM_ROWS, image = task / parts, r0 = task % parts * NORM_ROWS;
    const struct tx_mat turns = tx_mat_at(block->turns, r0, 0);
    for (size_t part = job->first_part; part < 2; part++) {
        const struct tx_mat x = tx_mat_at(job->qkv, job->seq->start[image] + r0, part * block->D);
        const size_t rows = tx_min(NORM_ROWS, block->rotated - r0);
        if (x.dtype == TX_F32)
            kernels->rotate_f32(x.data, x.ld, turns.data, turns.ld, rows, block->D);
        else
            kernels->rotate_bf16(x.data, x.ld, turns.data, turns.ld, rows, block->D);
    }
}

static void rotate(const struct tx_run *run, const struct tx_block *block, struct tx_mat qkv, const struct tx_seq *seq,
                   int keys_alone)
{
    struct rotate_job job = {run, block, qkv, seq, keys_alone ? 1 : 0};
    tx_pool_run(run->threads, rotate_task, &job, seq->images * ((block->rotated + NORM_ROWS - 1) / NORM_ROWS));
}

void tx_block_fix(const struct tx_run *run, const struct tx_block *block, struct tx_mat x, struct tx_mat h)
{
    const size_t start[2] = {0, block->fixed_count};
    project(run, block, block->fixed_qkv, x, h, block->fixed_count);
    if (block->rotated && block->fixed_first == 0)
        rotate(run, block, block->fixed_qkv, &(struct tx_seq){1, start}, 0);
}

struct copy_job {
    struct tx_mat to, from;
    const struct tx_seq *seq;
    size_t first, count, parts;     /* rows of each image from `first` on, in so many parts */
};

static void copy_task(void *arg, size_t task, int worker)
{
    (void)worker;
    const struct copy_job *job = arg;
    const size_t image = task / job->parts, r0 = task % job->parts * NORM_ROWS, rows = tx_min(NORM_ROWS, job->count - r0);
    memcpy(tx_mat_at(job->to, job->seq->start[image] + job->first + r0, 0).data, tx_mat_at(job->from, r0, 0).data,
           rows * job->to.ld * tx_dtype_size(job->to.dtype));
}

/* project for the rows before and after the fixed ones of each image, which are copied. */
static void project_around(const struct tx_run *run, const struct tx_block *block, struct tx_mat qkv, struct tx_mat x,
                           struct tx_mat h, const struct tx_seq *seq)
{
    const size_t first = block->fixed_first, count = block->fixed_count, parts = (count + NORM_ROWS - 1) / NORM_ROWS;
    struct copy_job job = {qkv, block->fixed_qkv, seq, first, count, parts};
    tx_pool_run(run->threads, copy_task, &job, seq->images * parts);
    for (size_t b = 0; b < seq->images; b++) {
        const size_t before = seq->start[b], after = before + first + count;
        project(run, block, tx_mat_at(qkv, before, 0), tx_mat_at(x, before, 0), h, first);
        project(run, block, tx_mat_at(qkv, after, 0), tx_mat_at(x, after, 0), h, seq->start[b + 1] - after);
    }
}

/* Whether the stored rows save time: a few rows of each of many images are sooner computed with all others in one product. The
 * bits are the same, but with a BLAS, whose calls must not depend on how many images come together. */
static int stored_pays(const struct tx_run *run, const struct tx_block *block, const struct tx_seq *seq)
{
    const int blas = tx_linear_bits_follow_rows(run->kernels, block->qkv.dtype);
    return block->fixed_count && (blas || seq->images == 1 || 2 * block->fixed_count * seq->images > tx_seq_rows(seq));
}

void tx_block_run(const struct tx_run *run, const struct tx_block *block, struct tx_mat x, const struct tx_seq *seq,
                  const struct tx_block_buffers *buffers, const struct tx_modulation *modulation,
                  const struct tx_cross_text *text, const struct tx_keep *keep, const char *name, size_t index)
{
    const size_t D = block->D, Dh = D / block->H;
    const struct tx_mat h = buffers->h, qkv = wide_as(buffers, 3 * D), q_cross = wide_as(buffers, D),
                        inner = wide_as(buffers, block->F);
    struct tx_beside share;
    const int stored = stored_pays(run, block, seq);

    if (stored) {
        project_around(run, block, qkv, x, h, seq);
    } else {
        norm(run, block, h, x, tx_seq_rows(seq), &block->norm1, modulation, 0);
        tx_linear_run_beside(run, &block->qkv, qkv, h, seq, NULL, beside(&share, block, modulation, &block->qkv));
    }
    if (block->rotated && !(stored && block->fixed_first == 0))
        rotate(run, block, qkv, seq, keep && keep->first >= block->rotated);
    tx_attend_run(run, &(struct tx_attend){
        .products = block->qkv.dtype, .out = buffers->attended, .q = qkv, .k = tx_mat_at(qkv, 0, D),
        .v = tx_mat_at(qkv, 0, 2 * D), .H = block->H, .Dh = Dh,
        .queries = seq, .keys = seq, .first = keep ? keep->first : 0, .count = keep ? keep->count : 0,
    });
    if (keep) {
        for (size_t b = 0; b < seq->images; b++)
            memcpy(tx_mat_at(buffers->kept, b * keep->count, 0).data, tx_mat_at(x, seq->start[b] + keep->first, 0).data,
                   keep->count * x.ld * sizeof(float));
        x = buffers->kept;
        seq = keep->seq;
    }
    const size_t rows = tx_seq_rows(seq);
    add(run, &block->proj, x, attended_for(run, buffers, rows, D), seq, modulation, 2,
        beside(&share, block, modulation, &block->proj));
    tap(run, name, index, ".attn", x, rows, D);

    if (block->cross) {
        norm(run, block, h, x, rows, &block->norm_cross, NULL, 0);
        tx_linear_run(run, &block->cross_q, q_cross, h, seq, NULL);
        tx_attend_run(run, &(struct tx_attend){
            .products = block->qkv.dtype, .out = buffers->attended, .q = q_cross, .k = text->kv, .v = tx_mat_at(text->kv, 0, D),
            .H = block->H, .Dh = Dh,
            .queries = seq, .keys = text->seq, .keys_of = text->text_of,
        });
        add(run, &block->cross_proj, x, attended_for(run, buffers, rows, D), seq, NULL, 0, NULL);
        tap(run, name, index, ".cross", x, rows, D);
    }

    norm(run, block, h, x, rows, &block->norm2, modulation, 3);
    tx_linear_run_beside(run, &block->fc1, inner, h, seq, &(struct tx_epilogue_f32){.act = block->gelu},
                         beside(&share, block, modulation, &block->fc1));
    add(run, &block->fc2, x, inner_for(run, buffers, inner, rows, block->F), seq, modulation, 5,
        beside(&share, block, modulation, &block->fc2));
    tap(run, name, index, "", x, rows, D);
}
