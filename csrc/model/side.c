#include "side.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_TOGETHER = 1024 };

enum tx_status tx_side_init(struct tx_side *side, const struct tx_textok_config *config, const struct tx_side_config *sizes,
                            int has_text, struct tx_error *err)
{
    const size_t registers = sizes == &config->detokenizer && !config->detokenizer_registers ? 0 : config->num_registers;
    *side = (struct tx_side){
        .D = sizes->hidden_size, .H = sizes->num_heads, .F = tx_mlp_width(sizes), .depth = sizes->depth,
        .P = tx_num_patches(config), .R = registers, .N = config->num_latent_tokens, .eps = (float)config->norm_eps,
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
        block->eps = block->mlp_eps = side->eps;
        block->gelu = config->gelu == TX_GELU_ERF ? TX_ACT_GELU_ERF : TX_ACT_GELU_TANH;
        block->cross = side->cross;
        block->rotated = config->rope ? side->P : 0;
    }
    return TX_OK;
}

void tx_side_free(struct tx_side *side)
{
    free(side->blocks);
}

void tx_side_bind(struct tx_side *side, struct tx_tensors *tensors, const struct tx_textok_config *config, const char *prefix)
{
    side->text_proj.dtype = tensors->edge;
    if (side->classes)
        tx_bind_array(tensors, &side->class_embed, 2, side->classes, side->D, "%sclass_embed", prefix);
    else if (side->Nt)
        tx_bind_linear(tensors, &side->text_proj, side->D, side->Dt, 1, "%stext_proj", prefix);
    const size_t positions = side->P + side->R + side->N + (side->cross ? 0 : side->Nt);
    tx_bind_array(tensors, &side->pos_embed, 2, positions, side->D, "%spos_embed", prefix);
    if (side->R)
        tx_bind_array(tensors, &side->registers, 2, side->R, side->D, "%sregisters", prefix);
    if (config->input_norm)
        tx_bind_norm(tensors, &side->input_norm, side->D, "%sinput_norm", prefix);
    for (size_t i = 0; i < side->depth; i++) {
        struct tx_block *block = &side->blocks[i];
        tx_bind_block(tensors, block, 1, (int)config->qkv_bias, prefix, i);
        if (block->rotated)
            tx_bind_cube(tensors, &block->angles, (const size_t[3]){side->H, side->P, side->D / side->H / 2}, "%srope.%zu",
                         prefix, i);
    }
    tx_bind_norm(tensors, &side->norm, side->D, "%snorm", prefix);
}

/* Text rows of an image, at most, where captions come with t: a class is one, whatever t says. */
static size_t text_rows(const struct tx_side *side, size_t t)
{
    return !side->Nt ? 0 : side->classes ? 1 : t;
}

size_t tx_side_together(const struct tx_side *side, size_t batch, size_t t)
{
    const size_t rows = side->P + side->R + side->N + (side->cross ? 0 : text_rows(side, t));
    return tx_max(1, tx_min(batch, ROWS_TOGETHER / rows));
}

void tx_side_plan(const struct tx_side *side, struct tx_side_buffers *b, struct tx_arena *arena, size_t images, size_t t,
                  int keep_patches)
{
    const size_t kept = keep_patches ? side->P : side->N, part = keep_patches ? side->N : side->P;
    t = text_rows(side, t);
    b->images = images;
    b->longest = side->P + side->R + side->N + (side->cross ? 0 : t);
    b->x = tx_mat_take(arena, TX_F32, images * b->longest, side->D);
    b->part = tx_mat_take(arena, TX_F32, images * part, side->D);
    b->normed = tx_mat_take(arena, TX_F32, images * kept, side->D);
    b->text_in = tx_mat_take(arena, TX_F32, images * t, side->Dt);
    b->text_narrow =
        side->text_proj.dtype == TX_F32 ? b->text_in : tx_mat_take(arena, side->text_proj.dtype, images * t, side->Dt);
    b->text = b->cross_in = tx_mat_take(arena, TX_F32, images * t, side->D);
    if (side->cross) {
        const enum tx_dtype dtype = side->blocks->cross_kv.dtype;
        if (dtype != TX_F32)
            b->cross_in = tx_mat_take(arena, dtype, images * t, side->D);
        b->kv = tx_mat_take(arena, tx_attention_dtype(dtype), images * t, 2 * side->D);
    }
    tx_block_plan(side->blocks, &b->block, arena, images * b->longest, images * kept);
    b->start = tx_arena_take(arena, images + 1, sizeof(size_t));
    b->text_start = tx_arena_take(arena, images + 1, sizeof(size_t));
    b->part_start = tx_arena_take(arena, images + 1, sizeof(size_t));
    b->kept_start = tx_arena_take(arena, images + 1, sizeof(size_t));
}

size_t tx_side_scratch(const struct tx_side *side, const struct tx_kernels *kernels, size_t t)
{
    t = text_rows(side, t);
    return tx_block_scratch(side->blocks, kernels, side->P + side->R + side->N + t, t);
}

void tx_side_plan_fixed(struct tx_side *side, struct tx_arena *arena, int keep_patches)
{
    for (size_t i = 0; i < side->depth; i++)
        tx_block_plan_turns(&side->blocks[i], arena);
    tx_block_plan_fixed(side->blocks, arena, keep_patches ? 0 : side->P, side->R + (keep_patches ? side->P : side->N));
}

static void add_row(float *out, const float *a, const float *b, size_t D)
{
    for (size_t i = 0; i < D; i++)
        out[i] = a[i] + b[i];
}

/* The learned tokens with their positions: [registers; latents] in the tokenizer, [patches; registers] in the detokenizer. */
static void learned_rows(const struct tx_side *side, float *x, size_t ld)
{
    const size_t first = side->blocks->fixed_first, D = side->D, registers = first ? 0 : side->P, learned = first ? side->R : 0;
    for (size_t r = 0; r < side->blocks->fixed_count; r++) {
        const int is_register = r >= registers && r < registers + side->R;
        const float *token = is_register ? side->registers + (r - registers) * D : side->learned + (r - learned) * D;
        add_row(x + r * ld, token, side->pos_embed + (first + r) * D, D);
    }
}

/* The input norm, in place, where there is one. */
static void norm_input(const struct tx_run *run, const struct tx_side *side, struct tx_mat x, size_t rows)
{
    if (side->input_norm.weight)
        tx_norm_run(run, x, &(struct tx_norm_f32){
            .x = x.data, .ldx = x.ld, .M = rows, .D = side->D, .eps = side->eps, .weight = side->input_norm.weight,
            .bias = side->input_norm.bias,
        });
}

enum tx_status tx_side_fix(const struct tx_side *side, const struct tx_kernels *kernels, int threads, struct tx_error *err)
{
    const struct tx_block *block = side->blocks;
    const size_t count = block->fixed_count;
    struct tx_arena arena = {0};
    atomic_int stopped = 0;
    struct tx_run run = {.kernels = kernels, .threads = threads, .stopped = &stopped, .err = err,
                         .scratch_size = tx_round_up(tx_max(tx_linear_scratch(kernels, count),
                                                                tx_linear_own_scratch(&block->qkv)), TX_ALIGN)};
    for (int real = 0; real < 2; real++) {
        const struct tx_arena measured = arena;
        if (real && tx_arena_open(&arena, &measured, err) != TX_OK)
            return err->status;
        run.scratch = tx_arena_take(&arena, (size_t)threads, run.scratch_size);
        const struct tx_mat x = tx_mat_take(&arena, TX_F32, count, side->D),
                            h = tx_mat_take(&arena, block->qkv.dtype, count, side->D);
        if (real) {
            for (size_t i = 0; i < side->depth; i++)
                tx_block_fill_turns(&side->blocks[i]);
            learned_rows(side, x.data, x.ld);
            norm_input(&run, side, x, count);
            tx_block_fix(&run, block, x, h);
        }
    }
    tx_arena_close(&arena);
    return TX_OK;
}

void tx_side_begin(const struct tx_side *side, const struct tx_side_buffers *buffers, size_t images, int keep_patches)
{
    const size_t first = keep_patches ? side->P + side->R : 0, count = keep_patches ? side->N : side->P;
    for (size_t b = 0; b < images; b++) {
        buffers->part_start[b] = b * count;
        for (size_t r = 0; r < count; r++)
            memcpy(tx_mat_at(buffers->part, b * count + r, 0).data, side->pos_embed + (first + r) * side->D,
                   side->D * sizeof(float));
    }
    buffers->part_start[images] = images * count;
}

/* Text of these images -> buffers->text [rows, D], and where each one's rows start. */
static void project_text(const struct tx_run *run, const struct tx_side *side, const struct tx_side_buffers *buffers,
                         size_t images, const struct tx_text *text, size_t b0)
{
    size_t *start = buffers->text_start;
    start[0] = 0;
    for (size_t b = 0; b < images; b++) {
        const size_t rows = !side->Nt ? 0 : side->classes ? 1 : (size_t)text->lengths[b0 + b];
        start[b + 1] = start[b] + rows;
        if (side->classes) {
            memcpy(tx_mat_at(buffers->text, start[b], 0).data, side->class_embed + (size_t)text->labels[b0 + b] * side->D,
                   side->D * sizeof(float));
            continue;
        }
        for (size_t r = 0; r < rows; r++)
            memcpy(tx_mat_at(buffers->text_in, start[b] + r, 0).data, text->rows + ((b0 + b) * text->t + r) * side->Dt,
                   side->Dt * sizeof(float));
    }
    if (!side->Nt || side->classes)
        return;
    if (buffers->text_narrow.dtype != TX_F32)
        tx_convert_run(run, buffers->text_narrow, buffers->text_in, start[images], side->Dt);
    tx_linear_run(run, &side->text_proj, buffers->text, buffers->text_narrow, &(struct tx_seq){images, start}, NULL);
}

/* [patches; registers; latents; text] of each image, one after the other, in buffers->x. */
static void assemble(const struct tx_side *side, const struct tx_side_buffers *buffers, size_t images, int keep_patches)
{
    const size_t D = side->D, ld = buffers->x.ld;
    const size_t part_first = keep_patches ? side->P + side->R : 0, part_count = keep_patches ? side->N : side->P;
    const size_t fixed = side->P + side->R + side->N;
    const size_t *start = buffers->start, *text_start = buffers->text_start;
    for (size_t b = 0; b < images; b++) {
        float *x = tx_mat_at(buffers->x, start[b], 0).data;
        memcpy(x + part_first * ld, tx_mat_at(buffers->part, b * part_count, 0).data, part_count * ld * sizeof *x);
        learned_rows(side, x + side->blocks->fixed_first * ld, ld);
        if (!side->cross)
            for (size_t r = 0; r < text_start[b + 1] - text_start[b]; r++)
                add_row(x + (fixed + r) * ld, tx_mat_at(buffers->text, text_start[b] + r, 0).data,
                        side->pos_embed + (fixed + r) * D, D);
    }
}

enum tx_status tx_side_run(const struct tx_run *run, const struct tx_side *side, const struct tx_side_buffers *buffers,
                           size_t images, const struct tx_text *text, size_t b0, int keep_patches, const char *prefix)
{
    const size_t D = side->D, kept = keep_patches ? side->P : side->N;
    const struct tx_seq seq = {images, buffers->start}, text_seq = {images, buffers->text_start},
                        kept_seq = {images, buffers->kept_start};
    const struct tx_keep keep = {keep_patches ? 0 : side->P + side->R, kept, &kept_seq};
    const struct tx_cross_text cross = {.kv = buffers->kv, .seq = &text_seq};

    project_text(run, side, buffers, images, text, b0);
    if (buffers->cross_in.dtype != TX_F32)
        tx_convert_run(run, buffers->cross_in, buffers->text, tx_seq_rows(&text_seq), D);
    buffers->start[0] = buffers->kept_start[0] = 0;
    for (size_t b = 0; b < images; b++) {
        buffers->start[b + 1] =
            buffers->start[b] + side->P + side->R + side->N + (side->cross ? 0 : tx_seq_length(&text_seq, b));
        buffers->kept_start[b + 1] = (b + 1) * kept;
    }
    assemble(side, buffers, images, keep_patches);
    norm_input(run, side, buffers->x, tx_seq_rows(&seq));
    char format[TX_NAME_SIZE];
    snprintf(format, sizeof format, "%sembed", prefix);
    tx_run_tap(run, format, 0, buffers->x.data, tx_seq_rows(&seq), D, buffers->x.ld);

    for (size_t i = 0; i < side->depth; i++) {
        if (tx_run_tick(run) != TX_OK)
            return TX_STOPPED;
        if (side->cross)
            tx_linear_run(run, &side->blocks[i].cross_kv, buffers->kv, buffers->cross_in, &text_seq, NULL);
        tx_block_run(run, &side->blocks[i], buffers->x, &seq, &buffers->block, NULL, &cross,
                     i + 1 == side->depth ? &keep : NULL, prefix, i);
    }
    tx_norm_run(run, buffers->normed, &(struct tx_norm_f32){
        .x = buffers->block.kept.data, .ldx = buffers->block.kept.ld, .M = images * kept, .D = D, .eps = side->eps,
        .weight = side->norm.weight, .bias = side->norm.bias,
    });
    snprintf(format, sizeof format, "%snorm", prefix);
    tx_run_tap(run, format, 0, buffers->normed.data, images * kept, D, buffers->normed.ld);
    return TX_OK;
}
