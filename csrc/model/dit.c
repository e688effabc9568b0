#include "dit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROWS_TOGETHER = 2048,   /* token rows evaluated together */
    PAIRS_TOGETHER = 128,   /* (timestep, condition) pairs whose modulations are held at a time */
};

enum tx_status tx_dit_init(struct tx_dit *dit, const struct tx_dit_config *config, struct tx_tensors *tensors,
                           struct tx_error *err)
{
    const struct tx_side_config *body = &config->body;
    const int text = config->condition == TX_CONDITION_TEXT;
    const size_t D = body->hidden_size;
    *dit = (struct tx_dit){
        .D = D, .H = body->num_heads, .F = tx_mlp_width(body), .depth = body->depth, .T = config->num_tokens,
        .C = config->in_channels, .out_channels = (config->learn_sigma ? 2 : 1) * config->in_channels,
        .classes = text ? 0 : config->num_classes, .Nt = text ? config->num_text_tokens : 0, .Dt = text ? config->text_dim : 0,
        .freq = config->time_freq_dim, .guided = config->guidance_channels ? config->guidance_channels : config->in_channels,
        .eps = (float)config->norm_eps, .freq_shift = config->time_freq_shift, .S = config->input_size, .p = config->patch_size,
        .rows = config->input_size ? 1 : config->num_tokens,
        .plane = config->input_size ? config->input_size * config->input_size : 1,
    };
    const size_t pp = dit->p * dit->p;
    const float mlp_eps = config->mlp_norm_eps != 0 ? (float)config->mlp_norm_eps : dit->eps;
    dit->blocks = calloc(dit->depth, sizeof *dit->blocks);
    dit->ada = calloc(dit->depth, sizeof *dit->ada);
    if (!dit->blocks || !dit->ada)
        return tx_fail_memory(err, dit->depth * (sizeof *dit->blocks + sizeof *dit->ada));
    dit->text_proj.dtype = tensors->edge;
    dit->final_ada.dtype = tensors->bulk;
    tx_bind_linear(tensors, &dit->x_embedder, D, dit->C * pp, 1, "x_embedder");
    tx_bind_array(tensors, &dit->pos_embed, 2, dit->T, D, "pos_embed");
    tx_bind_linear(tensors, &dit->t_mlp0, D, dit->freq, 1, "t_embedder.mlp.0");
    tx_bind_linear(tensors, &dit->t_mlp2, D, D, 1, "t_embedder.mlp.2");
    if (text) {
        tx_bind_linear(tensors, &dit->text_proj, D, dit->Dt, 1, "text_proj");
        tx_bind_linear(tensors, &dit->text_pool, D, dit->Dt, 1, "text_pool");
        tx_bind_array(tensors, &dit->null_text, 2, dit->Nt, dit->Dt, "null_text");
    } else {
        tx_bind_array(tensors, &dit->class_table, 2, dit->classes + 1, D, "y_embedder.embedding_table.weight");
    }
    for (size_t i = 0; i < dit->depth; i++) {
        dit->blocks[i] = (struct tx_block){
            .D = D, .H = dit->H, .F = dit->F, .eps = dit->eps, .mlp_eps = mlp_eps, .gelu = TX_ACT_GELU_TANH, .cross = text};
        tx_bind_block(tensors, &dit->blocks[i], 0, 1, "", i);
        dit->ada[i].dtype = tensors->bulk;
        tx_bind_linear(tensors, &dit->ada[i], 6 * D, D, 1, "blocks.%zu.adaLN_modulation.1", i);
        if (i > 0) {
            dit->blocks[i - 1].fc2.next = &dit->blocks[i].qkv;
            dit->ada[i - 1].next = &dit->ada[i];
        }
    }
    tx_bind_linear(tensors, &dit->final_ada, 2 * D, D, 1, "final_layer.adaLN_modulation.1");
    tx_bind_linear(tensors, &dit->final_linear, dit->out_channels * pp, D, 1, "final_layer.linear");
    return TX_OK;
}

void tx_dit_free(struct tx_dit *dit)
{
    free(dit->blocks);
    free(dit->ada);
}

void tx_dit_plan(const struct tx_dit *dit, struct tx_dit_buffers *b, struct tx_arena *arena, size_t B, int null, size_t t,
                 size_t steps)
{
    const size_t D = dit->D;
    b->conditions = B + (null ? 1 : 0);
    /* Whole steps at a time: each has one pair a condition. */
    b->pairs = b->conditions * tx_max(1, tx_min(steps, PAIRS_TOGETHER / b->conditions));
    b->images = tx_max(1, tx_min(null ? 2 * B : B, ROWS_TOGETHER / dit->T));
    b->text_rows = dit->Nt ? B * t + (null ? dit->Nt : 0) : 0;
    b->y = tx_mat_take(arena, TX_F32, b->conditions, D);
    b->time = tx_mat_take(arena, TX_F32, b->pairs, D);
    b->frequencies = tx_mat_take(arena, TX_F32, b->pairs, dit->freq);
    b->c = b->c_narrow = tx_mat_take(arena, TX_F32, b->pairs, D);
    if (dit->final_ada.dtype != TX_F32)
        b->c_narrow = tx_mat_take(arena, dit->final_ada.dtype, b->pairs, D);
    b->mod = tx_mat_take(arena, TX_F32, dit->depth * b->pairs, 6 * D);
    b->final_mod = tx_mat_take(arena, TX_F32, b->pairs, 2 * D);
    if (dit->Nt) {
        const enum tx_dtype cross = dit->blocks->cross_kv.dtype;
        b->text_in = b->text_narrow = tx_mat_take(arena, TX_F32, b->text_rows, dit->Dt);
        if (dit->text_proj.dtype != TX_F32)
            b->text_narrow = tx_mat_take(arena, dit->text_proj.dtype, b->text_rows, dit->Dt);
        b->text = b->cross_in = tx_mat_take(arena, TX_F32, b->text_rows, D);
        if (cross != TX_F32)
            b->cross_in = tx_mat_take(arena, cross, b->text_rows, D);
        b->pooled = tx_mat_take(arena, TX_F32, b->conditions, dit->Dt);
        b->kv = tx_mat_take(arena, tx_attention_dtype(cross), dit->depth * b->text_rows, 2 * D);
    }
    b->text_start = tx_arena_take(arena, b->conditions + 1, sizeof(size_t));
    b->one_start = tx_arena_take(arena, b->pairs + 1, sizeof(size_t));
    b->start = tx_arena_take(arena, b->images + 1, sizeof(size_t));
    b->text_of = tx_arena_take(arena, b->images, sizeof(size_t));
    b->in = tx_mat_take(arena, TX_F32, b->images * dit->T, dit->x_embedder.K);
    b->x = tx_mat_take(arena, TX_F32, b->images * dit->T, D);
    b->out = tx_mat_take(arena, TX_F32, b->images * dit->T, dit->final_linear.N);
    b->normed = tx_mat_take(arena, TX_F32, b->images * dit->T, D);
    b->group = tx_arena_take(arena, b->images * dit->T, sizeof(int32_t));
    tx_block_plan(dit->blocks, &b->block, arena, b->images * dit->T, 0);
}

size_t tx_dit_scratch(const struct tx_dit *dit, const struct tx_kernels *kernels, size_t t)
{
    return tx_block_scratch(dit->blocks, kernels, dit->T, tx_max(t, dit->Nt));
}

/* Mean over rows, in double: a condition's text may have any number of them. */
static void mean_rows(float *out, const float *rows, size_t count, size_t ld, size_t D)
{
    for (size_t i = 0; i < D; i++) {
        double sum = 0;
        for (size_t r = 0; r < count; r++)
            sum += rows[r * ld + i];
        out[i] = (float)(sum / (double)count);
    }
}

static void condition_on_text(const struct tx_run *run, const struct tx_dit *dit, struct tx_dit_buffers *b,
                              const struct tx_text *text, size_t B)
{
    b->text_start[0] = 0;
    for (size_t g = 0; g < b->conditions; g++) {
        const int own = g < B;
        const size_t rows = own ? (size_t)text->lengths[g] : dit->Nt;
        const float *from = own ? text->rows + g * text->t * dit->Dt : dit->null_text;
        const struct tx_mat in = tx_mat_at(b->text_in, b->text_start[g], 0);
        for (size_t r = 0; r < rows; r++)
            memcpy(tx_mat_at(in, r, 0).data, from + r * dit->Dt, dit->Dt * sizeof *from);
        mean_rows(tx_mat_at(b->pooled, g, 0).data, in.data, rows, in.ld, dit->Dt);
        b->text_start[g + 1] = b->text_start[g] + rows;
    }
    const struct tx_seq seq = {b->conditions, b->text_start}, ones = {b->conditions, b->one_start};
    const size_t rows = tx_seq_rows(&seq);
    tx_linear_run(run, &dit->text_pool, b->y, b->pooled, &ones, NULL);
    if (b->text_narrow.dtype != TX_F32)
        tx_convert_run(run, b->text_narrow, b->text_in, rows, dit->Dt);
    tx_linear_run(run, &dit->text_proj, b->text, b->text_narrow, &seq, NULL);
    if (b->cross_in.dtype != TX_F32)
        tx_convert_run(run, b->cross_in, b->text, rows, dit->D);
    for (size_t i = 0; i < dit->depth; i++)
        tx_linear_run(run, &dit->blocks[i].cross_kv, tx_mat_at(b->kv, i * b->text_rows, 0), b->cross_in, &seq, NULL);
}

void tx_dit_condition(const struct tx_run *run, const struct tx_dit *dit, struct tx_dit_buffers *b, const struct tx_text *text,
                      size_t B, int null)
{
    b->conditions = (text ? B : 0) + (null ? 1 : 0);
    for (size_t i = 0; i <= b->pairs; i++)
        b->one_start[i] = i;
    if (!dit->classes) {
        condition_on_text(run, dit, b, text, text ? B : 0);
        return;
    }
    for (size_t g = 0; g < b->conditions; g++) {
        const size_t label = text && g < B ? (size_t)text->labels[g] : dit->classes;
        memcpy(tx_mat_at(b->y, g, 0).data, dit->class_table + label * dit->D, dit->D * sizeof *dit->class_table);
    }
}

/* [cos, sin] of t exp(-ln(10000) i / (half - shift)), in double: at t = 999 a float32 angle would be off by 3e-5. */
static void time_frequencies(float *out, double t, size_t freq, size_t shift)
{
    const size_t half = freq / 2;
    for (size_t i = 0; i < half; i++) {
        const double angle = t * exp(-log(10000.0) * (double)i / (double)(half - shift));
        out[i] = (float)cos(angle);
        out[half + i] = (float)sin(angle);
    }
}

void tx_dit_modulate(const struct tx_run *run, const struct tx_dit *dit, struct tx_dit_buffers *b, const float *t,
                     const size_t *condition, size_t count, int beside)
{
    const size_t D = dit->D;
    const struct tx_seq ones = {count, b->one_start};
    for (size_t i = 0; i < count; i++) {
        time_frequencies(tx_mat_at(b->frequencies, i, 0).data, t[i], dit->freq, dit->freq_shift);
        memcpy(tx_mat_at(b->c, i, 0).data, tx_mat_at(b->y, condition[i], 0).data, D * sizeof(float));
    }
    tx_linear_run(run, &dit->t_mlp0, b->time, b->frequencies, &ones, &(struct tx_epilogue_f32){.act = TX_ACT_SILU});
    tx_linear_run(run, &dit->t_mlp2, b->c, b->time, &ones, &(struct tx_epilogue_f32){.residual = b->c.data, .ldr = b->c.ld});
    tx_run_tap(run, "c", 0, b->c.data, count, D, b->c.ld);
    for (size_t i = 0; i < count; i++) {
        float *c = tx_mat_at(b->c, i, 0).data;
        run->kernels->activate_f32(c, c, D, TX_ACT_SILU);
    }
    if (b->c_narrow.dtype != TX_F32)
        tx_convert_run(run, b->c_narrow, b->c, count, D);
    b->beside = beside && tx_linear_beside(run->kernels, dit->final_ada.dtype) ? count : 0;
    for (size_t i = 0; i < (b->beside ? 1 : dit->depth); i++)
        tx_linear_run(run, &dit->ada[i], tx_mat_at(b->mod, i * b->pairs, 0), b->c_narrow, &ones, NULL);
    if (!b->beside)
        tx_linear_run(run, &dit->final_ada, b->final_mod, b->c_narrow, &ones, NULL);
}

/* A sample's patches as the rows of `to`, (channel, row, column) within a patch; tokens as they are. */
static void rows_of_sample(const struct tx_dit *dit, struct tx_mat to, const float *sample)
{
    const size_t C = dit->C, S = dit->S, p = dit->p, grid = S / p;
    for (size_t r = 0; r < dit->T; r++) {
        float *row = tx_mat_at(to, r, 0).data;
        if (!S)
            memcpy(row, sample + r * C, C * sizeof *row);
        for (size_t c = 0; S && c < C; c++)
            for (size_t y = 0; y < p; y++)
                memcpy(row + (c * p + y) * p, sample + (c * S + r / grid * p + y) * S + r % grid * p, p * sizeof *row);
    }
}

/* The rows of `from`, (row, column, channel) within a patch, as a prediction. */
static void prediction_of_rows(const struct tx_dit *dit, float *prediction, struct tx_mat from)
{
    const size_t C = dit->out_channels, S = dit->S, p = dit->p, grid = S / p;
    for (size_t r = 0; r < dit->T; r++) {
        const float *row = tx_mat_at(from, r, 0).data;
        if (!S)
            memcpy(prediction + r * C, row, C * sizeof *row);
        for (size_t i = 0; S && i < p * p; i++)
            for (size_t c = 0; c < C; c++)
                prediction[(c * S + r / grid * p + i / p) * S + r % grid * p + i % p] = row[i * C + c];
    }
}

enum tx_status tx_dit_evaluate(const struct tx_run *run, const struct tx_dit *dit, struct tx_dit_buffers *b, const float *x,
                               const size_t *image, const size_t *pair, const size_t *condition, size_t E, float *out)
{
    const size_t D = dit->D, T = dit->T;
    for (size_t e0 = 0; e0 < E; e0 += b->images) {
        const size_t count = tx_min(b->images, E - e0);
        for (size_t e = 0; e < count; e++) {
            b->start[e] = e * T;
            b->text_of[e] = condition[e0 + e];
            rows_of_sample(dit, tx_mat_at(b->in, e * T, 0), x + image[e0 + e] * tx_dit_sample_size(dit));
            for (size_t r = 0; r < T; r++) {
                memcpy(tx_mat_at(b->x, e * T + r, 0).data, dit->pos_embed + r * D, D * sizeof *x);
                b->group[e * T + r] = (int32_t)pair[e0 + e];
            }
        }
        b->start[count] = count * T;
        const struct tx_seq seq = {count, b->start}, texts = {b->conditions, b->text_start};
        tx_linear_run(run, &dit->x_embedder, b->x, b->in, &seq,
                      &(struct tx_epilogue_f32){.residual = b->x.data, .ldr = b->x.ld});
        tx_run_tap(run, "embed", 0, b->x.data, count * T, D, b->x.ld);
        for (size_t i = 0; i < dit->depth; i++) {
            if (tx_run_tick(run) != TX_OK)
                return TX_STOPPED;
            const int last = i + 1 == dit->depth;
            const struct tx_beside beside = {.linear = last ? &dit->final_ada : &dit->ada[i + 1],
                .out = last ? b->final_mod : tx_mat_at(b->mod, (i + 1) * b->pairs, 0), .a = b->c_narrow, .rows = b->beside};
            const struct tx_modulation modulation = {tx_mat_at(b->mod, i * b->pairs, 0).data, b->mod.ld, b->group,
                                                    b->beside && e0 == 0 ? &beside : NULL};
            const struct tx_cross_text text = {dit->Nt ? tx_mat_at(b->kv, i * b->text_rows, 0) : b->kv, &texts, b->text_of};
            tx_block_run(run, &dit->blocks[i], b->x, &seq, &b->block, &modulation, &text, NULL, "", i);
        }
        tx_norm_run(run, b->normed, &(struct tx_norm_f32){
            .x = b->x.data, .ldx = b->x.ld, .M = count * T, .D = D, .eps = dit->eps, .shift = b->final_mod.data,
            .scale = (const float *)b->final_mod.data + D, .ldm = b->final_mod.ld, .group = b->group,
        });
        tx_run_tap(run, "final", 0, b->normed.data, count * T, D, b->normed.ld);
        tx_linear_run(run, &dit->final_linear, b->out, b->normed, &seq, NULL);
        for (size_t e = 0; e < count; e++)
            prediction_of_rows(dit, out + (e0 + e) * tx_dit_output_size(dit), tx_mat_at(b->out, e * T, 0));
    }
    return tx_run_tick(run);
}

enum tx_status tx_dit_denoise(const struct tx_run *run, const struct tx_dit *dit, struct tx_arena *arena, const float *x,
                              const float *t, const struct tx_text *text, size_t B, float *out)
{
    struct tx_dit_buffers b;
    const size_t conditions = text ? B : 0;
    tx_dit_plan(dit, &b, arena, B, !text, text ? text->t : 0, 1);
    size_t *image = tx_arena_take(arena, B, sizeof *image), *condition = tx_arena_take(arena, B, sizeof *condition);
    if (!arena->base)
        return TX_OK;
    for (size_t e = 0; e < B; e++) {
        image[e] = e;
        condition[e] = text ? e : conditions;
    }
    tx_dit_condition(run, dit, &b, text, B, !text);
    tx_dit_modulate(run, dit, &b, t, condition, B, 1);
    return tx_dit_evaluate(run, dit, &b, x, image, image, condition, B, out);
}
