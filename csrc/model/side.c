#include "side.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_TOGETHER = 1024 };

enum tx_status tx_side_init(struct tx_side *side, const struct tx_textok_config *config, const struct tx_side_config *sizes, int has_text,
                            struct tx_error *err)
{
    *side = (struct tx_side){
        .D = sizes->hidden_size, .H = sizes->num_heads, .F = tx_mlp_width(sizes), .depth = sizes->depth,
        .P = tx_num_patches(config), .N = config->num_latent_tokens, .eps = (float)config->norm_eps,
        .cross = has_text && config->text_injection == TX_CROSS_ATTENTION,
    };
    if (has_text) {
        const int labels = config->text_source == TX_TEXT_CLASS;
        side->Nt = labels ? 1 : config->num_text_tokens;
        side->Dt = labels ? 0 : config->text_dim;
        side->classes = labels ? config->num_classes : 0;
    }
    side->blocks = calloc(side->depth, sizeof *side->blocks);
    if (!side->blocks)
        return tx_fail_memory(err, side->depth * sizeof *side->blocks);
    for (size_t i = 0; i < side->depth; i++) {
        struct tx_block *block = &side->blocks[i];
        block->D = side->D;
        block->H = side->H;
        block->F = side->F;
        block->eps = side->eps;
        block->gelu = config->gelu == TX_GELU_ERF ? TX_ACT_GELU_ERF : TX_ACT_GELU_TANH;
        block->cross = side->cross;
    }
    return TX_OK;
}

void tx_side_free(struct tx_side *side)
{
    free(side->blocks);
}

void tx_side_bind(struct tx_side *side, struct tx_tensors *tensors, const struct tx_textok_config *config, const char *prefix)
{
    if (side->classes)
        tx_bind_array(tensors, &side->class_embed, 2, side->classes, side->D, "%sclass_embed", prefix);
    else if (side->Nt)
        tx_bind_linear(tensors, &side->text_proj, side->D, side->Dt, 1, "%stext_proj", prefix);
    const size_t positions = side->P + side->N + (side->cross ? 0 : side->Nt);
    tx_bind_array(tensors, &side->pos_embed, 2, positions, side->D, "%spos_embed", prefix);
    for (size_t i = 0; i < side->depth; i++)
        tx_bind_block(tensors, &side->blocks[i], 1, (int)config->qkv_bias, prefix, i);
    tx_bind_norm(tensors, &side->norm, side->D, "%snorm", prefix);
}

/* Text rows of an image, at most, where captions come with t: a class is one, whatever t says. */
static size_t text_rows(const struct tx_side *side, size_t t)
{
    return !side->Nt ? 0 : side->classes ? 1 : t;
}

size_t tx_side_together(const struct tx_side *side, size_t batch, size_t t)
{
    const size_t rows = side->P + side->N + (side->cross ? 0 : text_rows(side, t));
    return tx_max(1, tx_min(batch, ROWS_TOGETHER / rows));
}

void tx_side_plan(const struct tx_side *side, struct tx_side_buffers *b, struct tx_arena *arena, size_t images, size_t t, int keep_patches)
{
    const size_t ld = tx_ld(side->D), kept = keep_patches ? side->P : side->N, part = keep_patches ? side->N : side->P;
    t = text_rows(side, t);
    b->images = images;
    b->longest = side->P + side->N + (side->cross ? 0 : t);
    b->x = tx_arena_take(arena, images * b->longest, ld * sizeof(float));
    b->part = tx_arena_take(arena, images * part, ld * sizeof(float));
    b->text_in = tx_arena_take(arena, images * t, tx_ld(side->Dt) * sizeof(float));
    b->text = tx_arena_take(arena, images * t, ld * sizeof(float));
    b->kv = tx_arena_take(arena, side->cross ? images * t : 0, tx_ld(2 * side->D) * sizeof(float));
    tx_block_plan(&b->block, arena, images * b->longest, images * kept, side->D, side->F);
    b->start = tx_arena_take(arena, images + 1, sizeof(size_t));
    b->text_start = tx_arena_take(arena, images + 1, sizeof(size_t));
    b->part_start = tx_arena_take(arena, images + 1, sizeof(size_t));
    b->kept_start = tx_arena_take(arena, images + 1, sizeof(size_t));
}

size_t tx_side_scratch(const struct tx_side *side, const struct tx_kernels *kernels, size_t t)
{
    t = text_rows(side, t);
    return tx_block_scratch(kernels, side->P + side->N + t, t, side->D, side->H);
}

void tx_side_begin(const struct tx_side *side, const struct tx_side_buffers *buffers, size_t images, int keep_patches)
{
    const size_t first = keep_patches ? side->P : 0, count = keep_patches ? side->N : side->P, ld = tx_ld(side->D);
    for (size_t b = 0; b < images; b++) {
        buffers->part_start[b] = b * count;
        for (size_t r = 0; r < count; r++)
            memcpy(buffers->part + (b * count + r) * ld, side->pos_embed + (first + r) * side->D, side->D * sizeof(float));
    }
    buffers->part_start[images] = images * count;
}

static void add_row(float *out, const float *a, const float *b, size_t D)
{
    for (size_t i = 0; i < D; i++)
        out[i] = a[i] + b[i];
}

/* Text of these images -> buffers->text [rows, D], and where each one's rows start. */
static void project_text(const struct tx_run *run, const struct tx_side *side, const struct tx_side_buffers *buffers, size_t images,
                         const struct tx_text *text, size_t b0)
{
    const size_t ld = tx_ld(side->D), ldt = tx_ld(side->Dt);
    size_t *start = buffers->text_start;
    start[0] = 0;
    for (size_t b = 0; b < images; b++) {
        const size_t rows = text_rows(side, side->Nt && !side->classes ? (size_t)text->lengths[b0 + b] : 0);
        start[b + 1] = start[b] + rows;
        if (side->classes) {
            memcpy(buffers->text + start[b] * ld, side->class_embed + (size_t)text->labels[b0 + b] * side->D, side->D * sizeof(float));
            continue;
        }
        for (size_t r = 0; r < rows; r++)
            memcpy(buffers->text_in + (start[b] + r) * ldt, text->rows + ((b0 + b) * text->t + r) * side->Dt, side->Dt * sizeof(float));
    }
    if (side->Nt && !side->classes)
        tx_linear_run(run, &side->text_proj, buffers->text, ld, buffers->text_in, ldt, &(struct tx_seq){images, start}, NULL);
}

/* [patches; latents; text] of each image, one after the other, in buffers->x. */
static void assemble(const struct tx_side *side, const struct tx_side_buffers *buffers, size_t images, int keep_patches)
{
    const size_t D = side->D, ld = tx_ld(D), learned_first = keep_patches ? 0 : side->P, learned_count = keep_patches ? side->P : side->N;
    const size_t part_first = keep_patches ? side->P : 0, part_count = keep_patches ? side->N : side->P, fixed = side->P + side->N;
    const size_t *start = buffers->start, *text_start = buffers->text_start;
    for (size_t b = 0; b < images; b++) {
        float *x = buffers->x + start[b] * ld;
        memcpy(x + part_first * ld, buffers->part + b * part_count * ld, part_count * ld * sizeof *x);
        for (size_t r = 0; r < learned_count; r++)
            add_row(x + (learned_first + r) * ld, side->learned + r * D, side->pos_embed + (learned_first + r) * D, D);
        if (!side->cross)
            for (size_t r = 0; r < text_start[b + 1] - text_start[b]; r++)
                add_row(x + (fixed + r) * ld, buffers->text + (text_start[b] + r) * ld, side->pos_embed + (fixed + r) * D, D);
    }
}

enum tx_status tx_side_run(const struct tx_run *run, const struct tx_side *side, const struct tx_side_buffers *buffers, size_t images,
                           const struct tx_text *text, size_t b0, int keep_patches, const char *prefix)
{
    const size_t D = side->D, ld = tx_ld(D), kept = keep_patches ? side->P : side->N;
    const struct tx_seq seq = {images, buffers->start}, text_seq = {images, buffers->text_start}, kept_seq = {images, buffers->kept_start};
    const struct tx_keep keep = {keep_patches ? 0 : side->P, kept, &kept_seq};
    const struct tx_cross_text cross = {.kv = buffers->kv, .ld = tx_ld(2 * D), .seq = &text_seq};

    project_text(run, side, buffers, images, text, b0);
    buffers->start[0] = buffers->kept_start[0] = 0;
    for (size_t b = 0; b < images; b++) {
        buffers->start[b + 1] = buffers->start[b] + side->P + side->N + (side->cross ? 0 : tx_seq_length(&text_seq, b));
        buffers->kept_start[b + 1] = (b + 1) * kept;
    }
    assemble(side, buffers, images, keep_patches);
    char format[TX_NAME_SIZE];
    snprintf(format, sizeof format, "%sembed", prefix);
    tx_run_tap(run, format, 0, buffers->x, tx_seq_rows(&seq), D, ld);

    for (size_t i = 0; i < side->depth; i++) {
        if (tx_run_tick(run) != TX_OK)
            return TX_STOPPED;
        if (side->cross)
            tx_linear_run(run, &side->blocks[i].cross_kv, buffers->kv, tx_ld(2 * D), buffers->text, ld, &text_seq, NULL);
        tx_block_run(run, &side->blocks[i], buffers->x, &seq, &buffers->block, NULL, &cross, i + 1 == side->depth ? &keep : NULL, prefix, i);
    }
    tx_norm_run(run, &(struct tx_norm_f32){
        .out = buffers->block.h, .ldo = ld, .x = buffers->block.kept, .ldx = ld, .M = images * kept, .D = D, .eps = side->eps,
        .weight = side->norm.weight, .bias = side->norm.bias,
    });
    snprintf(format, sizeof format, "%snorm", prefix);
    tx_run_tap(run, format, 0, buffers->block.h, images * kept, D, ld);
    return TX_OK;
}
