#include "detokenizer.h"

#include "../base/pool.h"

enum tx_status tx_detokenizer_init(struct tx_detokenizer *t, const struct tx_textok_config *config, struct tx_tensors *tensors,
                                   struct tx_error *err)
{
    const int has_text = config->text_condition == TX_TEXT_BOTH || config->text_condition == TX_TEXT_DETOKENIZER;
    const size_t p = config->patch_size;
    if (tx_side_init(&t->side, config, &config->detokenizer, has_text, err) != TX_OK)
        return err->status;
    t->S = config->image_size;
    t->p = p;
    t->d = config->latent_dim;
    t->activation = config->output_activation == TX_OUTPUT_TANH ? TX_ACT_TANH : TX_ACT_NONE;
    tx_bind_array(tensors, &t->side.learned, 2, t->side.P, t->side.D, "detokenizer.patch_tokens");
    tx_bind_linear(tensors, &t->from_latent, t->side.D, t->d, 1, "detokenizer.from_latent");
    tx_side_bind(&t->side, tensors, config, "detokenizer.");
    tx_bind_linear(tensors, &t->to_pixels, 3 * p * p, t->side.D, 1, "detokenizer.to_pixels");
    return TX_OK;
}

void tx_detokenizer_plan(const struct tx_detokenizer *t, struct tx_detokenizer_buffers *buffers, struct tx_arena *arena, size_t images,
                         size_t text_tokens)
{
    tx_side_plan(&t->side, &buffers->side, arena, images, text_tokens, 1);
    buffers->patches = tx_mat_take(arena, TX_F32, images * t->side.P, t->to_pixels.N);
}

struct unpatchify_job {
    const struct tx_run *run;
    const struct tx_detokenizer *t;
    struct tx_mat patches;
    void *images;
    int bytes;
};

static void unpatchify_task(void *arg, size_t image, int worker)
{
    (void)worker;
    const struct unpatchify_job *job = arg;
    const struct tx_detokenizer *t = job->t;
    const size_t ld = job->patches.ld, pixels = t->S * t->S * 3;
    const float *patches = tx_mat_at(job->patches, image * t->side.P, 0).data;
    if (job->bytes)
        job->run->kernels->unpatchify_u8((uint8_t *)job->images + image * pixels, patches, ld, t->S, t->p);
    else
        job->run->kernels->unpatchify_f32((float *)job->images + image * pixels, patches, ld, t->S, t->p);
}

enum tx_status tx_detokenizer_run(const struct tx_run *run, const struct tx_detokenizer *t, const struct tx_detokenizer_buffers *buffers,
                                  const float *z, const struct tx_text *text, size_t B, void *images, int bytes)
{
    const size_t N = t->side.N, image_size = t->S * t->S * 3 * (bytes ? 1 : sizeof(float));
    for (size_t b0 = 0; b0 < B; b0 += buffers->side.images) {
        const size_t count = tx_min(buffers->side.images, B - b0);
        tx_side_begin(&t->side, &buffers->side, count, 1);
        tx_linear_run(run, &t->from_latent, buffers->side.part, tx_mat_f32(z + b0 * N * t->d, t->d),
                      &(struct tx_seq){count, buffers->side.part_start},
                      &(struct tx_epilogue_f32){.residual = buffers->side.part.data, .ldr = buffers->side.part.ld});
        if (tx_side_run(run, &t->side, &buffers->side, count, text, b0, 1, "detokenizer.") != TX_OK)
            return run->err->status;
        tx_linear_run(run, &t->to_pixels, buffers->patches, buffers->side.normed, &(struct tx_seq){count, buffers->side.kept_start},
                      &(struct tx_epilogue_f32){.act = t->activation});
        struct unpatchify_job job = {run, t, buffers->patches, (char *)images + b0 * image_size, bytes};
        tx_pool_run(run->threads, unpatchify_task, &job, count);
    }
    return tx_run_tick(run);
}
