#include "tokenizer.h"

#include <string.h>

#include "../base/pool.h"

enum tx_status tx_tokenizer_init(struct tx_tokenizer *t, const struct tx_textok_config *config, struct tx_tensors *tensors,
                                 struct tx_error *err)
{
    const int has_text = config->text_condition == TX_TEXT_BOTH || config->text_condition == TX_TEXT_TOKENIZER;
    if (tx_side_init(&t->side, config, &config->tokenizer, has_text, err) != TX_OK)
        return err->status;
    t->cut = (struct tx_patches){config->image_size, config->patch_size, config->patch_overlap};
    t->d = config->latent_dim;
    tx_bind_linear(tensors, &t->patch_embed, t->side.D, tx_window(config), 1, "tokenizer.patch_embed");
    tx_bind_array(tensors, &t->side.learned, 2, t->side.N, t->side.D, "tokenizer.latent_tokens");
    tx_side_bind(&t->side, tensors, config, "tokenizer.");
    tx_bind_linear(tensors, &t->to_latent, (config->kl ? 2 : 1) * t->d, t->side.D, 1, "tokenizer.to_latent");
    tx_codebook_init(&t->codebook, config, tensors);
    return TX_OK;
}

size_t tx_tokenizer_scratch(const struct tx_tokenizer *t, const struct tx_kernels *kernels, size_t text_tokens)
{
    return tx_max(tx_side_scratch(&t->side, kernels, text_tokens), tx_codebook_scratch(&t->codebook, kernels));
}

void tx_tokenizer_plan(const struct tx_tokenizer *t, struct tx_tokenizer_buffers *buffers, struct tx_arena *arena,
                       size_t images, size_t text_tokens)
{
    tx_side_plan(&t->side, &buffers->side, arena, images, text_tokens, 0);
    buffers->patches = tx_mat_take(arena, TX_F32, images * t->side.P, t->patch_embed.K);
    buffers->moments = tx_mat_take(arena, TX_F32, images * t->side.N, t->to_latent.N);
    buffers->unit = tx_mat_take(arena, TX_F32, t->codebook.runs ? images * t->side.N : 0, t->d);
}

struct patchify_job {
    const struct tx_run *run;
    const struct tx_tokenizer *t;
    struct tx_mat patches;
    const void *images;
    int bytes;
};

static void patchify_task(void *arg, size_t image, int worker)
{
    (void)worker;
    const struct patchify_job *job = arg;
    const struct tx_tokenizer *t = job->t;
    const size_t ld = job->patches.ld, pixels = t->cut.S * t->cut.S * 3;
    float *patches = tx_mat_at(job->patches, image * t->side.P, 0).data;
    if (job->bytes)
        job->run->kernels->patchify_u8(patches, ld, (const uint8_t *)job->images + image * pixels, t->cut);
    else
        job->run->kernels->patchify_f32(patches, ld, (const float *)job->images + image * pixels, t->cut);
}

enum tx_status tx_tokenizer_run(const struct tx_run *run, const struct tx_tokenizer *t,
                                const struct tx_tokenizer_buffers *buffers, const void *images, int bytes,
                                const struct tx_text *text, size_t B, float *z)
{
    const size_t N = t->side.N, image_size = t->cut.S * t->cut.S * 3 * (bytes ? 1 : sizeof(float));
    for (size_t b0 = 0; b0 < B; b0 += buffers->side.images) {
        const size_t count = tx_min(buffers->side.images, B - b0);
        struct patchify_job job = {run, t, buffers->patches, (const char *)images + b0 * image_size, bytes};
        tx_pool_run(run->threads, patchify_task, &job, count);
        tx_side_begin(&t->side, &buffers->side, count, 0);
        tx_linear_run(run, &t->patch_embed, buffers->side.part, buffers->patches,
                      &(struct tx_seq){count, buffers->side.part_start},
                      &(struct tx_epilogue_f32){.residual = buffers->side.part.data, .ldr = buffers->side.part.ld});
        if (tx_side_run(run, &t->side, &buffers->side, count, text, b0, 0, "tokenizer.") != TX_OK)
            return run->err->status;
        tx_linear_run(run, &t->to_latent, buffers->moments, buffers->side.normed,
                      &(struct tx_seq){count, buffers->side.kept_start}, NULL);
        if (t->codebook.runs)
            tx_codebook_run(run, &t->codebook, z + b0 * N * t->d, buffers->moments, buffers->unit, count);
        for (size_t r = 0; !t->codebook.runs && r < count * N; r++)
            memcpy(z + (b0 * N + r) * t->d, tx_mat_at(buffers->moments, r, 0).data, t->d * sizeof *z);
    }
    return tx_run_tick(run);
}
