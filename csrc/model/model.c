/* A loaded model: its config, its tensors, the memory they lie in; and how a call gets its workspace. */
#include "../textok.h"

#include <stdlib.h>
#include <string.h>

#include "../base/arena.h"
#include "../base/pool.h"
#include "bind.h"
#include "detokenizer.h"
#include "dit.h"
#include "text_encoder.h"
#include "tokenizer.h"

struct tx_model {
    enum tx_model_kind kind;
    enum tx_sides sides;                /* of a TexTok, those whose struct below is filled */
    union tx_model_config config;
    const struct tx_kernels *kernels;
    struct tx_tensors tensors;
    struct tx_arena weights;
    struct tx_tokenizer tokenizer;      /* TX_MODEL_TEXTOK */
    struct tx_detokenizer detokenizer;
    struct tx_dit dit;                  /* TX_MODEL_DIT */
    struct tx_text_encoder text;        /* TX_MODEL_TEXT */
};

static enum tx_status list_tensors(struct tx_model *m, struct tx_error *err)
{
    enum tx_status status;
    if (m->kind == TX_MODEL_DIT) {
        status = tx_dit_config_check(&m->config.dit, err);
        return status == TX_OK ? tx_dit_init(&m->dit, &m->config.dit, &m->tensors, err) : status;
    }
    if (m->kind == TX_MODEL_TEXT) {
        status = tx_text_config_check(&m->config.text, err);
        return status == TX_OK ? tx_text_encoder_init(&m->text, &m->config.text, &m->tensors, err) : status;
    }
    status = tx_textok_config_check(&m->config.textok, err);
    if (status == TX_OK && m->sides & TX_TOKENIZER)
        status = tx_tokenizer_init(&m->tokenizer, &m->config.textok, &m->tensors, err);
    if (status == TX_OK && m->sides & TX_DETOKENIZER)
        status = tx_detokenizer_init(&m->detokenizer, &m->config.textok, &m->tensors, err);
    return status;
}

/* Sums of int8 products are kept in int32: a stored weight may be -128, an activation is at most 127. */
static enum tx_status check_sums(const struct tx_tensors *tensors, struct tx_error *err)
{
    const size_t most = INT32_MAX / (127 * 128);
    for (size_t i = 0; i < tensors->count; i++) {
        const struct tx_linear *linear = tensors->list[i].linear;
        if (linear && tx_operand_dtype(linear->dtype) == TX_INT8 && linear->K > most)
            return tx_fail(err, TX_EINVAL, "config: %s has rows of %zu numbers, expected at most %zu in an int8 or int4 model",
                           tensors->list[i].name, linear->K, most);
    }
    return TX_OK;
}

enum tx_status tx_model_open(struct tx_model **model, const struct tx_kernels *kernels, enum tx_model_kind kind,
                             enum tx_sides sides, enum tx_dtype dtype, const union tx_model_config *config,
                             struct tx_error *err)
{
    *model = NULL;
    struct tx_model *m = calloc(1, sizeof *m);
    if (!m)
        return tx_fail_memory(err, sizeof *m);
    m->kind = kind;
    m->sides = kind == TX_MODEL_TEXTOK ? sides : TX_NO_SIDE;
    m->config = *config;
    m->kernels = kernels;
    m->tensors.bulk = dtype;
    m->tensors.edge = dtype == TX_F32 ? TX_F32 : TX_BF16;
    enum tx_status status = list_tensors(m, err);
    for (size_t i = 0; i < m->tensors.count; i++)
        if (m->tensors.list[i].linear)
            m->tensors.list[i].linear->name = m->tensors.list[i].name;
    if (status == TX_OK && m->tensors.failed)
        status = tx_fail_memory(err, m->tensors.room * sizeof *m->tensors.list);
    if (status == TX_OK)
        status = check_sums(&m->tensors, err);
    if (status == TX_OK)
        *model = m;
    else
        tx_model_close(m);
    return status;
}

void tx_model_close(struct tx_model *m)
{
    if (!m)
        return;
    tx_arena_close(&m->weights);
    tx_side_free(&m->tokenizer.side);
    tx_side_free(&m->detokenizer.side);
    tx_dit_free(&m->dit);
    tx_text_encoder_free(&m->text);
    free(m->tensors.list);
    free(m);
}

enum tx_model_kind tx_model_kind(const struct tx_model *m)
{
    return m->kind;
}

enum tx_sides tx_model_sides(const struct tx_model *m)
{
    return m->sides;
}

const union tx_model_config *tx_model_config(const struct tx_model *m)
{
    return &m->config;
}

size_t tx_model_tensor_count(const struct tx_model *m)
{
    return m->tensors.count;
}

int tx_model_tensor(const struct tx_model *m, size_t index, const char **name, size_t shape[3])
{
    const struct tx_tensor *tensor = &m->tensors.list[index];
    *name = tensor->name;
    memcpy(shape, tensor->shape, sizeof tensor->shape);
    return tensor->rank;
}

size_t tx_model_weight_bytes(const struct tx_model *m)
{
    return m->weights.size;
}

enum tx_dtype tx_model_dtype(const struct tx_model *m)
{
    return m->tensors.bulk;
}

enum tx_dtype tx_model_tensor_dtype(const struct tx_model *m, size_t index)
{
    const struct tx_tensor *tensor = &m->tensors.list[index];
    return tensor->linear ? tensor->linear->dtype : tensor->table ? tensor->table->dtype : TX_F32;
}

/* Tensors, and what is made of them at load. */
static void plan_weights(struct tx_model *m, struct tx_arena *arena)
{
    tx_tensors_plan(&m->tensors, arena, m->kernels);
    if (m->sides & TX_TOKENIZER) {
        tx_side_plan_fixed(&m->tokenizer.side, arena, 0);
        tx_codebook_plan(&m->tokenizer.codebook, arena);
    }
    if (m->sides & TX_DETOKENIZER)
        tx_side_plan_fixed(&m->detokenizer.side, arena, 1);
}

enum tx_status tx_model_load(struct tx_model *m, int (*get)(void *arg, size_t index, struct tx_values *values), void *arg,
                             int threads, struct tx_error *err)
{
    struct tx_arena measure = {0};
    plan_weights(m, &measure);
    if (tx_arena_open(&m->weights, &measure, err) != TX_OK)
        return err->status;
    plan_weights(m, &m->weights);
    threads = (int)tx_min((size_t)(threads > 0 ? threads : tx_pool_threads()), TX_MAX_THREADS);
    for (size_t i = 0; i < m->tensors.count; i++) {
        const struct tx_tensor *tensor = &m->tensors.list[i];
        struct tx_values values;
        if (get(arg, i, &values))
            return tx_fail(err, TX_STOPPED, "%s: no values", tensor->name);
        if (tensor->table && values.dtype == TX_INT4)
            return tx_fail(err, TX_EINVAL, "%s: int4, which a table of rows cannot be", tensor->name);
        if (tensor->table)
            tx_table_fill(tensor->table, &values, threads);
        else if (!tensor->linear)
            tx_widen(*tensor->array, &values, tensor->shape[0], tx_tensor_elements(tensor) / tensor->shape[0]);
        else if (tx_linear_pack(tensor->linear, &values, threads, err) != TX_OK)
            return err->status;
    }
    enum tx_status status = TX_OK;
    if (m->sides & TX_TOKENIZER) {
        status = tx_side_fix(&m->tokenizer.side, m->kernels, threads, err);
        tx_codebook_fix(&m->tokenizer.codebook);
    }
    if (status == TX_OK && m->sides & TX_DETOKENIZER)
        status = tx_side_fix(&m->detokenizer.side, m->kernels, threads, err);
    return status;
}

void tx_model_export(const struct tx_model *m, size_t index, void *data, float *scale, uint8_t *group_scale)
{
    const struct tx_tensor *tensor = &m->tensors.list[index];
    if (tensor->linear)
        tx_linear_unpack(tensor->linear, data, scale, group_scale);
    else if (tensor->table)
        tx_table_export(tensor->table, data, scale);
    else
        memcpy(data, *tensor->array, tx_tensor_elements(tensor) * sizeof(float));
}

/* A workspace: the run's scratch first, then what the caller plans. */
struct workspace {
    struct tx_run run;
    atomic_int stopped;
    struct tx_arena arena;
};

static void begin(struct workspace *w, const struct tx_model *m, const struct tx_call *call, size_t scratch)
{
    const int threads = call->threads > 0 ? call->threads : tx_pool_threads();
    for (size_t i = 0; i < m->tensors.count; i++)
        scratch = tx_max(scratch, m->tensors.list[i].linear ? tx_linear_own_scratch(m->tensors.list[i].linear) : 0);
    *w = (struct workspace){
        .run = {.kernels = m->kernels, .threads = threads < TX_MAX_THREADS ? threads : TX_MAX_THREADS,
                .scratch_size = tx_round_up(scratch, TX_ALIGN), .tick = call->tick, .tick_arg = call->tick_arg,
                .tap = call->tap, .record = call->record, .tap_arg = call->tap_arg, .err = call->err},
    };
    w->run.stopped = &w->stopped;
    w->run.scratch = tx_arena_take(&w->arena, (size_t)w->run.threads, w->run.scratch_size);
}

static enum tx_status get_memory(struct workspace *w)
{
    const struct tx_arena measured = w->arena;
    if (tx_arena_reopen(&w->arena, &measured, w->run.err) != TX_OK)
        return w->run.err->status;
    w->run.scratch = tx_arena_take(&w->arena, (size_t)w->run.threads, w->run.scratch_size);
    return TX_OK;
}

static void plan_encode(struct workspace *w, const struct tx_model *m, struct tx_tokenizer_buffers *buffers, size_t B, size_t t)
{
    tx_tokenizer_plan(&m->tokenizer, buffers, &w->arena, tx_side_together(&m->tokenizer.side, B, t), t);
}

enum tx_status tx_textok_encode(const struct tx_model *m, const struct tx_call *call, const void *images, int bytes,
                                const struct tx_text *text, size_t B, float *z)
{
    struct workspace w;
    struct tx_tokenizer_buffers buffers;
    begin(&w, m, call, tx_tokenizer_scratch(&m->tokenizer, m->kernels, text->t));
    plan_encode(&w, m, &buffers, B, text->t);
    enum tx_status status = get_memory(&w);
    if (status == TX_OK) {
        plan_encode(&w, m, &buffers, B, text->t);
        status = tx_tokenizer_run(&w.run, &m->tokenizer, &buffers, images, bytes, text, B, z);
    }
    tx_arena_close(&w.arena);
    return status;
}

static void plan_decode(struct workspace *w, const struct tx_model *m, struct tx_detokenizer_buffers *buffers, size_t B,
                        size_t t)
{
    tx_detokenizer_plan(&m->detokenizer, buffers, &w->arena, tx_side_together(&m->detokenizer.side, B, t), t);
}

enum tx_status tx_textok_decode(const struct tx_model *m, const struct tx_call *call, const float *z,
                                const struct tx_text *text, size_t B, void *images, int bytes)
{
    struct workspace w;
    struct tx_detokenizer_buffers buffers;
    begin(&w, m, call, tx_side_scratch(&m->detokenizer.side, m->kernels, text->t));
    plan_decode(&w, m, &buffers, B, text->t);
    enum tx_status status = get_memory(&w);
    if (status == TX_OK) {
        plan_decode(&w, m, &buffers, B, text->t);
        status = tx_detokenizer_run(&w.run, &m->detokenizer, &buffers, z, text, B, images, bytes);
    }
    tx_arena_close(&w.arena);
    return status;
}

enum tx_status tx_dit_denoise_call(const struct tx_model *m, const struct tx_call *call, const float *x, const float *t,
                                   const struct tx_text *text, size_t B, float *out)
{
    struct workspace w;
    begin(&w, m, call, tx_dit_scratch(&m->dit, m->kernels, text ? text->t : 0));
    tx_dit_denoise(&w.run, &m->dit, &w.arena, x, t, text, B, out);
    enum tx_status status = get_memory(&w);
    if (status == TX_OK)
        status = tx_dit_denoise(&w.run, &m->dit, &w.arena, x, t, text, B, out);
    tx_arena_close(&w.arena);
    return status;
}

enum tx_status tx_dit_sample(const struct tx_model *m, const struct tx_call *call, const struct tx_sample *sample)
{
    struct workspace w;
    begin(&w, m, call, tx_dit_scratch(&m->dit, m->kernels, sample->text.t));
    tx_sample_run(&w.run, &m->dit, &w.arena, sample);
    enum tx_status status = get_memory(&w);
    if (status == TX_OK)
        status = tx_sample_run(&w.run, &m->dit, &w.arena, sample);
    tx_arena_close(&w.arena);
    return status;
}

enum tx_status tx_text_encode(const struct tx_model *m, const struct tx_call *call, const struct tx_captions *captions)
{
    struct workspace w;
    struct tx_text_buffers buffers;
    const struct tx_text_group most = tx_text_groups(captions);
    begin(&w, m, call, tx_text_encoder_scratch(&m->text, m->kernels, most.longest));
    tx_text_encoder_plan(&m->text, &buffers, &w.arena, &most);
    enum tx_status status = get_memory(&w);
    if (status == TX_OK) {
        tx_text_encoder_plan(&m->text, &buffers, &w.arena, &most);
        status = tx_text_encoder_run(&w.run, &m->text, &buffers, captions);
    }
    tx_arena_close(&w.arena);
    return status;
}

size_t tx_model_workspace(const struct tx_model *m, size_t B, size_t t, size_t steps, int threads)
{
    struct workspace w;
    const struct tx_call call = {.threads = threads};
    if (m->kind == TX_MODEL_TEXT) {
        struct tx_text_buffers buffers;
        const struct tx_text_group most = tx_text_groups_even(B, t);
        begin(&w, m, &call, tx_text_encoder_scratch(&m->text, m->kernels, t));
        tx_text_encoder_plan(&m->text, &buffers, &w.arena, &most);
        return w.arena.used;
    }
    if (m->kind == TX_MODEL_DIT) {
        const float guided = 2.0f;
        /* Guided at its first step: no other is looked at. */
        const struct tx_sample sample = {.B = B, .steps = steps, .guidance = &guided, .text = {.t = t}};
        begin(&w, m, &call, tx_dit_scratch(&m->dit, m->kernels, t));
        tx_sample_run(&w.run, &m->dit, &w.arena, &sample);
        return w.arena.used;
    }
    size_t most = 0;
    if (m->sides & TX_TOKENIZER) {
        struct tx_tokenizer_buffers buffers;
        begin(&w, m, &call, tx_tokenizer_scratch(&m->tokenizer, m->kernels, t));
        plan_encode(&w, m, &buffers, B, t);
        most = w.arena.used;
    }
    if (m->sides & TX_DETOKENIZER) {
        struct tx_detokenizer_buffers buffers;
        begin(&w, m, &call, tx_side_scratch(&m->detokenizer.side, m->kernels, t));
        plan_decode(&w, m, &buffers, B, t);
        most = tx_max(most, w.arena.used);
    }
    return most;
}
