#include "text_encoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_TOGETHER = 1024 };

static int has_mask(const struct tx_text_encoder *e)
{
    return e->config.family == TX_CLIP;
}

enum tx_status tx_text_encoder_init(struct tx_text_encoder *e, const struct tx_text_config *c, struct tx_tensors *tensors,
                                    struct tx_error *err)
{
    static const int activations[] = {[TX_TEXT_RELU] = TX_ACT_RELU, [TX_TEXT_GELU_ERF] = TX_ACT_GELU_ERF,
                                      [TX_TEXT_GELU_TANH] = TX_ACT_GELU_TANH,
                                      [TX_TEXT_QUICK_GELU] = TX_ACT_QUICK_GELU, [TX_TEXT_SILU] = TX_ACT_SILU};
    const int t5 = c->family == TX_T5, bert = c->family == TX_BERT;
    const size_t D = c->hidden_size;
    *e = (struct tx_text_encoder){.config = *c, .buckets = c->relative_buckets,
                                  .biases = !t5 ? 0 : c->relative_per_block ? c->depth : 1};
    e->blocks = calloc(c->depth, sizeof *e->blocks);
    e->relative = calloc(c->depth, sizeof *e->relative);
    if (!e->blocks || !e->relative)
        return tx_fail_memory(err, c->depth * (sizeof *e->blocks + sizeof *e->relative));
    e->tokens = (struct tx_table){.rows = c->vocab_size, .D = D, .dtype = tx_operand_dtype(tensors->bulk)};
    tx_bind_table(tensors, &e->tokens, "token_embed");
    if (c->max_positions)
        tx_bind_array(tensors, &e->positions, 2, c->max_positions, D, "pos_embed");
    if (bert) {
        tx_bind_array(tensors, &e->types, 2, c->token_types, D, "type_embed");
        tx_encoder_norm_bind(tensors, &e->embed_norm, D, 0, "embed_norm");
    }
    for (size_t i = 0; i < c->depth; i++) {
        struct tx_encoder_block *block = &e->blocks[i];
        *block = (struct tx_encoder_block){
            .D = D, .H = c->num_heads, .Dh = c->head_dim, .F = c->mlp_size, .eps = (float)c->norm_eps,
            .scale = t5 ? 1.0f : 0.0f,
            .rms = t5, .norm_after = bert, .gated = (int)c->gated, .biased = !bert, .act = activations[c->activation],
        };
        block->qkv.dtype = block->proj.dtype = block->fc1.dtype = block->fc2.dtype = tensors->bulk;
        /* T5's wo takes inputs of which a few are hundreds of times as large as the others. */
        block->fc2.by_column = t5 && tensors->bulk == TX_INT8;
        if (t5 && (block->gated || block->act == TX_ACT_RELU))
            block->fc2.fed_by = &block->fc1;
        if (t5 && tensors->bulk == TX_INT4)
            block->fc2.dtype = TX_BF16;
        if (i < e->biases)
            tx_bind_array(tensors, &e->relative[i], 2, e->buckets, c->num_heads, "blocks.%zu.relative_bias", i);
        tx_encoder_block_bind(block, tensors, !t5, i);
        if (i > 0)
            e->blocks[i - 1].fc2.next = &block->qkv;
    }
    if (!bert)
        tx_encoder_norm_bind(tensors, &e->norm, D, t5, "norm");
    if (c->projection_dim)
        tx_bind_linear(tensors, &e->pooled, c->projection_dim, D, 0, "pooled_proj");
    return TX_OK;
}

void tx_text_encoder_free(struct tx_text_encoder *e)
{
    free(e->blocks);
    free(e->relative);
}

/* Captions from b on that go together. */
static size_t group_end(const struct tx_captions *captions, size_t b)
{
    size_t rows = (size_t)captions->tokens[b], end = b + 1;
    while (end < captions->B && rows + (size_t)captions->tokens[end] <= ROWS_TOGETHER)
        rows += (size_t)captions->tokens[end++];
    return end;
}

struct tx_text_group tx_text_groups(const struct tx_captions *captions)
{
    struct tx_text_group most = {.captions = 1, .rows = 1, .longest = 1, .pooled = captions->pooled != NULL};
    for (size_t first = 0, end; first < captions->B; first = end) {
        size_t rows = 0;
        end = group_end(captions, first);
        for (size_t i = first; i < end; i++) {
            rows += (size_t)captions->tokens[i];
            most.longest = tx_max(most.longest, (size_t)captions->tokens[i]);
        }
        most.rows = tx_max(most.rows, rows);
        most.captions = tx_max(most.captions, end - first);
    }
    return most;
}

struct tx_text_group tx_text_groups_even(size_t B, size_t t)
{
    const size_t captions = tx_max(1, tx_min(B, ROWS_TOGETHER / t));
    return (struct tx_text_group){.captions = captions, .rows = captions * t, .longest = t, .pooled = 1};
}

void tx_text_encoder_plan(const struct tx_text_encoder *e, struct tx_text_buffers *b, struct tx_arena *arena,
                          const struct tx_text_group *most)
{
    const size_t D = e->config.hidden_size;
    *b = (struct tx_text_buffers){.most = *most, .x = tx_mat_take(arena, TX_F32, most->rows, D)};
    if (most->pooled) {
        b->picked = tx_mat_take(arena, TX_F32, most->captions, D);
        b->projected = tx_mat_take(arena, TX_F32, most->captions, e->config.projection_dim);
    }
    if (e->blocks->biased) {
        b->ldbias = tx_round_up(2 * most->longest - 1 + 2 * TX_BIAS_SLACK, TX_ALIGN / sizeof(float));
        b->bias = tx_arena_take(arena, (has_mask(e) ? 1 : e->config.num_heads) * b->ldbias, sizeof(float));
    }
    tx_encoder_block_plan(e->blocks, &b->block, arena, most->rows);
    b->start = tx_arena_take(arena, most->captions + 1, sizeof(size_t));
    b->keys = tx_arena_take(arena, most->captions + 1, sizeof(size_t));
    b->one = tx_arena_take(arena, most->captions + 1, sizeof(size_t));
}

size_t tx_text_encoder_scratch(const struct tx_text_encoder *e, const struct tx_kernels *kernels, size_t t)
{
    return tx_encoder_block_scratch(e->blocks, kernels, t);
}

/* T5's bucket of a distance, key less query: half of them for each sign, of these half for one distance each, the others
 * logarithmic up to relative_distance; all farther are in the last. In float32, as the originals have it. */
static size_t bucket_of(const struct tx_text_encoder *e, ptrdiff_t distance)
{
    const size_t half = e->buckets / 2, exact = half / 2, side = distance > 0 ? half : 0;
    const size_t far = (size_t)(distance < 0 ? -distance : distance);
    if (far < exact)
        return side + far;
    const float share = logf((float)far / (float)exact) / (float)log((double)e->config.relative_distance / (double)exact);
    return side + tx_min(exact + (size_t)(share * (float)(half - exact)), half - 1);
}

/* The bias by distance, query less key as kernels.h has it, that block i adds: T5's, or the causal mask. */
static struct tx_score_bias score_bias(const struct tx_text_encoder *e, const struct tx_text_buffers *b, size_t i)
{
    const ptrdiff_t reach = (ptrdiff_t)b->most.longest - 1;
    const size_t zero = TX_BIAS_SLACK + (size_t)reach;
    if (!b->bias)
        return (struct tx_score_bias){0};
    if (i == 0 || i < e->biases)
        for (ptrdiff_t d = -(ptrdiff_t)zero; d < (ptrdiff_t)(b->ldbias - zero); d++) {
            float *at = b->bias + (ptrdiff_t)zero + d;
            if (has_mask(e)) {
                *at = d < 0 ? TX_MASKED : 0;
                continue;
            }
            const float *row = e->relative[i] + bucket_of(e, -d) * e->config.num_heads;
            for (size_t h = 0; h < e->config.num_heads; h++)
                at[h * b->ldbias] = row[h];
        }
    return (struct tx_score_bias){b->bias + zero, has_mask(e) ? 0 : b->ldbias};
}

/* Embeddings of captions first..end, whose ids begin at `ids`. */
static void embed(const struct tx_run *run, const struct tx_text_encoder *e, const struct tx_text_buffers *b,
                  const int32_t *ids,
                  const struct tx_seq *seq)
{
    const size_t D = e->config.hidden_size;
    for (size_t caption = 0; caption < seq->images; caption++)
        for (size_t r = seq->start[caption]; r < seq->start[caption + 1]; r++) {
            float *x = tx_mat_at(b->x, r, 0).data;
            const float *position = e->positions ? e->positions + (r - seq->start[caption]) * D : NULL;
            for (size_t d = 0; d < D; d++)
                x[d] = (position ? position[d] : 0) + (e->types ? e->types[d] : 0);
            tx_table_add(&e->tokens, (size_t)ids[r], x);
        }
    if (e->embed_norm.weight)
        tx_encoder_norm_run(run, e->blocks, &e->embed_norm, b->x, b->x, tx_seq_rows(seq));
    tx_run_tap(run, "embed", 0, b->x.data, tx_seq_rows(seq), D, b->x.ld);
}

/* `rows` rows of x, normed where the model ends with a norm. */
static void finish(const struct tx_run *run, const struct tx_text_encoder *e, struct tx_mat out, struct tx_mat x, size_t rows)
{
    if (e->norm.weight) {
        tx_encoder_norm_run(run, e->blocks, &e->norm, out, x, rows);
        return;
    }
    for (size_t r = 0; r < rows; r++)
        memcpy(tx_mat_at(out, r, 0).data, tx_mat_at(x, r, 0).data, e->config.hidden_size * sizeof(float));
}

/* The pooled states of captions first.. of the group `seq`. */
static void pool(const struct tx_run *run, const struct tx_text_encoder *e, const struct tx_text_buffers *b,
                 const struct tx_captions *captions,
                 size_t first, const struct tx_seq *seq)
{
    const size_t D = e->config.hidden_size, P = e->config.projection_dim, width = P ? P : D;
    const struct tx_seq ones = {seq->images, b->one};
    for (size_t i = 0; i < seq->images; i++) {
        b->one[i] = i;
        finish(run, e, tx_mat_at(b->picked, i, 0), tx_mat_at(b->x, seq->start[i] + (size_t)captions->pooled_at[first + i], 0),
               1);
    }
    b->one[seq->images] = seq->images;
    if (P)
        tx_linear_run(run, &e->pooled, b->projected, b->picked, &ones, NULL);
    for (size_t i = 0; i < seq->images; i++)
        memcpy(captions->pooled + (first + i) * width, tx_mat_at(P ? b->projected : b->picked, i, 0).data,
               width * sizeof(float));
}

enum tx_status tx_text_encoder_run(const struct tx_run *run, const struct tx_text_encoder *e, const struct tx_text_buffers *b,
                                   const struct tx_captions *captions)
{
    const int32_t *ids = captions->ids;
    struct tx_score_bias bias = score_bias(e, b, 0);
    for (size_t first = 0, end; first < captions->B; first = end) {
        end = group_end(captions, first);
        const struct tx_seq seq = {end - first, b->start};
        b->start[0] = 0;
        for (size_t i = first; i < end; i++) {
            b->start[i - first + 1] = b->start[i - first] + (size_t)captions->tokens[i];
            b->keys[i - first] = (size_t)captions->keys[i];
        }
        embed(run, e, b, ids, &seq);
        ids += tx_seq_rows(&seq);
        for (size_t i = 0; i < e->config.depth; i++) {
            if (tx_run_tick(run) != TX_OK)
                return TX_STOPPED;
            if (e->biases > 1)
                bias = score_bias(e, b, i);
            tx_encoder_block_run(run, &e->blocks[i], b->x, &seq, &b->block, &bias, b->keys, i);
        }
        for (size_t i = first; i < end && captions->states; i++)
            finish(run, e, tx_mat_f32(captions->states + i * captions->t * e->config.hidden_size, e->config.hidden_size),
                   tx_mat_at(b->x, seq.start[i - first], 0), (size_t)captions->tokens[i]);
        if (captions->pooled)
            pool(run, e, b, captions, first, &seq);
    }
    return tx_run_tick(run);
}
