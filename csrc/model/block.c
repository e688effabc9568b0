#include "block.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../base/arena.h"
#include "../base/pool.h"

enum {
    NORM_ROWS = 64,     /* rows of a norm that a thread takes at a time */
    QUERY_ROWS = 256,   /* rows of an attention: enough that packing the keys again for each run of them costs little */
};

void tx_block_plan(struct tx_block_buffers *buffers, struct tx_arena *arena, size_t rows, size_t kept_rows, size_t D, size_t F)
{
    buffers->h = tx_arena_take(arena, rows, tx_ld(D) * sizeof(float));
    buffers->wide = tx_arena_take(arena, rows, tx_max(tx_ld(3 * D), tx_ld(F)) * sizeof(float));
    buffers->kept = tx_arena_take(arena, kept_rows, tx_ld(D) * sizeof(float));
}

size_t tx_block_scratch(const struct tx_kernels *kernels, size_t longest, size_t longest_text, size_t D, size_t H)
{
    return tx_max(tx_linear_scratch(kernels, tx_max(longest, longest_text)),
                  kernels->attention_f32_scratch(tx_max(longest, longest_text), D / H));
}

struct norm_job {
    const struct tx_run *run;
    const struct tx_norm_f32 *all;
};

static void norm_task(void *arg, size_t task, int worker)
{
    (void)worker;
    const struct norm_job *job = arg;
    struct tx_norm_f32 part = *job->all;
    const size_t r0 = task * NORM_ROWS;
    part.M = tx_min(NORM_ROWS, part.M - r0);
    part.out += r0 * part.ldo;
    part.x += r0 * part.ldx;
    part.group = part.group ? part.group + r0 : NULL;
    job->run->kernels->norm_f32(&part);
}

void tx_norm_run(const struct tx_run *run, const struct tx_norm_f32 *norm)
{
    struct norm_job job = {run, norm};
    tx_pool_run(run->threads, norm_task, &job, (norm->M + NORM_ROWS - 1) / NORM_ROWS);
}

/* Queries of each image against the keys and values of a sequence, head by head. */
struct attention_job {
    const struct tx_run *run;
    struct tx_attention_f32 head;   /* pointers at row 0, head 0 */
    size_t H;
    const struct tx_seq *queries;   /* rows of q */
    size_t first, count;            /* which rows of each image are queries; count 0: all */
    const struct tx_seq *keys;      /* rows of k and v */
    const size_t *keys_of;          /* [images] or NULL */
    size_t chunks;                  /* runs of queries an image, at most */
};

static void attention_task(void *arg, size_t task, int worker)
{
    const struct attention_job *job = arg;
    const size_t chunk = task % job->chunks, h = task / job->chunks % job->H, image = task / job->chunks / job->H;
    const size_t count = job->count ? job->count : tx_seq_length(job->queries, image);
    const size_t text = job->keys_of ? job->keys_of[image] : image;
    if (chunk * QUERY_ROWS >= count || tx_run_stopped(job->run, worker))
        return;
    struct tx_attention_f32 a = job->head;
    const size_t q0 = job->queries->start[image] + job->first + chunk * QUERY_ROWS;
    const size_t o0 = (job->count ? image * job->count : job->queries->start[image]) + chunk * QUERY_ROWS;
    a.Tq = tx_min(QUERY_ROWS, count - chunk * QUERY_ROWS);
    a.Tk = tx_seq_length(job->keys, text);
    a.q += q0 * a.ldq + h * a.Dh;
    a.out += o0 * a.ldo + h * a.Dh;
    a.k += job->keys->start[text] * a.ldk + h * a.Dh;
    a.v += job->keys->start[text] * a.ldv + h * a.Dh;
    a.scratch = tx_run_scratch(job->run, worker);
    job->run->kernels->attention_f32(&a);
}

static void attend(const struct tx_run *run, struct attention_job *job)
{
    size_t longest = job->count;
    for (size_t b = 0; !job->count && b < job->queries->images; b++)
        longest = tx_max(longest, tx_seq_length(job->queries, b));
    job->run = run;
    job->chunks = (longest + QUERY_ROWS - 1) / QUERY_ROWS;
    job->head.scale = (float)(1.0 / sqrt((double)job->head.Dh));
    tx_pool_run(run->threads, attention_task, job, job->queries->images * job->H * job->chunks);
}

static void norm(const struct tx_run *run, const struct tx_block *block, float *out, const float *x, size_t rows,
                 const struct tx_norm *weights, const struct tx_modulation *modulation, size_t part)
{
    const size_t ld = tx_ld(block->D);
    tx_norm_run(run, &(struct tx_norm_f32){
        .out = out, .ldo = ld, .x = x, .ldx = ld, .M = rows, .D = block->D, .eps = block->eps,
        .weight = weights->weight, .bias = weights->bias,
        .shift = modulation ? modulation->rows + part * block->D : NULL,
        .scale = modulation ? modulation->rows + (part + 1) * block->D : NULL,
        .ldm = modulation ? modulation->ld : 0, .group = modulation ? modulation->group : NULL,
    });
}

/* x += gate * (a W^T + b) */
static void add(const struct tx_run *run, const struct tx_linear *linear, float *x, size_t ld, const float *a, size_t lda,
                const struct tx_seq *seq, const struct tx_modulation *modulation, size_t part)
{
    tx_linear_run(run, linear, x, ld, a, lda, seq, &(struct tx_epilogue_f32){
        .residual = x, .ldr = ld,
        .gate = modulation ? modulation->rows + part * linear->N : NULL,
        .ldg = modulation ? modulation->ld : 0, .group = modulation ? modulation->group : NULL,
    });
}

static void tap(const struct tx_run *run, const char *name, size_t index, const char *what, const float *x, size_t rows, size_t D)
{
    char format[96];
    if (!run->tap)
        return;
    snprintf(format, sizeof format, "%sblocks.%%zu%s", name, what);
    tx_run_tap(run, format, index, x, rows, D, tx_ld(D));
}

void tx_block_run(const struct tx_run *run, const struct tx_block *block, float *x, const struct tx_seq *seq,
                  const struct tx_block_buffers *buffers, const struct tx_modulation *modulation, const struct tx_cross_text *text,
                  const struct tx_keep *keep, const char *name, size_t index)
{
    const size_t D = block->D, ld = tx_ld(D), ld3 = tx_ld(3 * D), ldf = tx_ld(block->F);
    float *h = buffers->h, *wide = buffers->wide;

    norm(run, block, h, x, tx_seq_rows(seq), &block->norm1, modulation, 0);
    tx_linear_run(run, &block->qkv, wide, ld3, h, ld, seq, NULL);
    attend(run, &(struct attention_job){
        .head = {.out = h, .ldo = ld, .q = wide, .ldq = ld3, .k = wide + D, .ldk = ld3, .v = wide + 2 * D, .ldv = ld3, .Dh = D / block->H},
        .H = block->H, .queries = seq, .keys = seq, .first = keep ? keep->first : 0, .count = keep ? keep->count : 0,
    });
    if (keep) {
        for (size_t b = 0; b < seq->images; b++)
            memcpy(buffers->kept + b * keep->count * ld, x + (seq->start[b] + keep->first) * ld, keep->count * ld * sizeof *x);
        x = buffers->kept;
        seq = keep->seq;
    }
    const size_t rows = tx_seq_rows(seq);
    add(run, &block->proj, x, ld, h, ld, seq, modulation, 2);
    tap(run, name, index, ".attn", x, rows, D);

    if (block->cross) {
        norm(run, block, h, x, rows, &block->norm_cross, NULL, 0);
        tx_linear_run(run, &block->cross_q, wide, ld, h, ld, seq, NULL);
        attend(run, &(struct attention_job){
            .head = {.out = h, .ldo = ld, .q = wide, .ldq = ld, .k = text->kv, .ldk = text->ld, .v = text->kv + D, .ldv = text->ld, .Dh = D / block->H},
            .H = block->H, .queries = seq, .keys = text->seq, .keys_of = text->text_of,
        });
        add(run, &block->cross_proj, x, ld, h, ld, seq, NULL, 0);
        tap(run, name, index, ".cross", x, rows, D);
    }

    norm(run, block, h, x, rows, &block->norm2, modulation, 3);
    tx_linear_run(run, &block->fc1, wide, ldf, h, ld, seq, &(struct tx_epilogue_f32){.act = block->gelu});
    add(run, &block->fc2, x, ld, wide, ldf, seq, modulation, 5);
    tap(run, name, index, "", x, rows, D);
}
