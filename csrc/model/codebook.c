#include "codebook.h"

#include <math.h>
#include <string.h>

#include "../base/pool.h"

void tx_codebook_init(struct tx_codebook *c, const struct tx_textok_config *config, struct tx_tensors *tensors)
{
    const struct tx_codebook_config *sizes = &config->codebook;
    *c = (struct tx_codebook){.runs = sizes->runs};
    if (!c->runs)
        return;
    c->size = sizes->size;
    c->tokens = config->num_latent_tokens / sizes->runs;
    c->d = config->latent_dim;
    c->tau = (float)sizes->tau;
    c->l2_norm = sizes->l2_norm != 0;
    tx_bind_cube(tensors, &c->codes, (const size_t[3]){c->runs, c->size, c->d}, "tokenizer.codebook");
}

void tx_codebook_plan(struct tx_codebook *c, struct tx_arena *arena)
{
    c->keys = c->runs ? tx_arena_take(arena, c->runs * c->size, c->d * sizeof(float)) : NULL;
}

/* out = x, of unit length where the codebook wants that. */
static void put(const struct tx_codebook *c, float *out, const float *x)
{
    double square = 0;
    for (size_t i = 0; i < c->d; i++)
        square += (double)x[i] * x[i];
    /* The least length is what torch.nn.functional.normalize divides by. */
    const float factor = c->l2_norm ? (float)(1.0 / fmax(sqrt(square), 1e-12)) : 1.0f;
    for (size_t i = 0; i < c->d; i++)
        out[i] = factor * x[i];
}

void tx_codebook_fix(const struct tx_codebook *c)
{
    for (size_t k = 0; k < c->runs * c->size; k++)
        put(c, c->keys + k * c->d, c->codes + k * c->d);
}

size_t tx_codebook_scratch(const struct tx_codebook *c, const struct tx_kernels *kernels)
{
    return c->runs ? kernels->attention_f32_scratch(c->size, c->d) : 0;
}

struct codebook_job {
    const struct tx_run *run;
    const struct tx_codebook *codebook;
    float *z;
    struct tx_mat tokens, unit;
};

/* A run of an image. */
static void codebook_task(void *arg, size_t task, int worker)
{
    const struct codebook_job *job = arg;
    const struct tx_codebook *c = job->codebook;
    const size_t run = task % c->runs, row = task * c->tokens;
    if (tx_run_stopped(job->run, worker))
        return;
    for (size_t r = 0; r < c->tokens; r++)
        put(c, tx_mat_at(job->unit, row + r, 0).data, tx_mat_at(job->tokens, row + r, 0).data);
    const float *keys = c->keys + run * c->size * c->d;
    job->run->kernels->attention_f32(&(struct tx_attention_f32){
        .out = job->z + row * c->d, .ldo = c->d, .q = tx_mat_at(job->unit, row, 0).data, .ldq = job->unit.ld, .k = keys,
        .ldk = c->d, .v = keys, .ldv = c->d, .Tq = c->tokens, .Tk = c->size, .Dh = c->d, .scale = 1.0f / c->tau,
        .scratch = tx_run_scratch(job->run, worker)});
}

void tx_codebook_run(const struct tx_run *run, const struct tx_codebook *c, float *z, struct tx_mat tokens, struct tx_mat unit,
                     size_t images)
{
    struct codebook_job job = {run, c, z, tokens, unit};
    tx_pool_run(run->threads, codebook_task, &job, images * c->runs);
}
