#include "detokenizer.h"

#include <string.h>

#include "../base/pool.h"

enum tx_status tx_detokenizer_init(struct tx_detokenizer *t, const struct tx_textok_config *config, struct tx_tensors *tensors,
                                   struct tx_error *err)
{
    const int has_text = config->text_condition == TX_TEXT_BOTH || config->text_condition == TX_TEXT_DETOKENIZER;
    if (tx_side_init(&t->side, config, &config->detokenizer, has_text, err) != TX_OK)
        return err->status;
    t->cut = (struct tx_patches){config->image_size, config->patch_size, config->patch_overlap};
    t->d = config->latent_dim;
    t->activation = config->output_activation == TX_OUTPUT_TANH ? TX_ACT_TANH : TX_ACT_NONE;
    tx_bind_array(tensors, &t->side.learned, 2, t->side.P, t->side.D, "detokenizer.patch_tokens");
    tx_bind_linear(tensors, &t->from_latent, t->side.D, t->d, 1, "detokenizer.from_latent");
    tx_side_bind(&t->side, tensors, config, "detokenizer.");
    tx_bind_linear(tensors, &t->to_pixels, tx_window(config), t->side.D, 1, "detokenizer.to_pixels");
    t->convolves = config->output_conv != 0;
    if (t->convolves) {
        tx_bind_array(tensors, &t->conv_weight, 2, 3, 27, "detokenizer.pixel_conv.weight");
        tx_bind_array(tensors, &t->conv_bias, 1, 3, 0, "detokenizer.pixel_conv.bias");
    }
    return TX_OK;
}

void tx_detokenizer_plan(const struct tx_detokenizer *t, struct tx_detokenizer_buffers *buffers, struct tx_arena *arena,
                         size_t images, size_t text_tokens)
{
    tx_side_plan(&t->side, &buffers->side, arena, images, text_tokens, 1);
    buffers->patches = tx_mat_take(arena, TX_F32, images * t->side.P, t->to_pixels.N);
    const size_t convolved = t->convolves ? images : 0;
    buffers->before = tx_arena_take(arena, convolved * t->cut.S * t->cut.S * 3, sizeof(float));
    buffers->after = tx_arena_take(arena, convolved * t->cut.S * t->cut.S * 3, sizeof(float));
}

struct unpatchify_job {
    const struct tx_run *run;
    const struct tx_detokenizer *t;
    struct tx_mat patches;
    void *images;
    int bytes;
    const float *before;    /* with a convolution: what it reads, and what it makes */
    float *after;
};

static void unpatchify_task(void *arg, size_t image, int worker)
{
    (void)worker;
    const struct unpatchify_job *job = arg;
    const struct tx_detokenizer *t = job->t;
    const size_t ld = job->patches.ld, pixels = t->cut.S * t->cut.S * 3;
    const float *patches = tx_mat_at(job->patches, image * t->side.P, 0).data;
    if (job->bytes)
        job->run->kernels->unpatchify_u8((uint8_t *)job->images + image * pixels, patches, ld, t->cut);
    else
        job->run->kernels->unpatchify_f32((float *)job->images + image * pixels, patches, ld, t->cut);
}

/* ---- the convolution ---- */

enum { CONV_ROWS = 16 }; /* of a task */

/* One pixel: places outside the picture count as zeros. */
static void convolve_pixel(const struct tx_detokenizer *t, float *out, const float *image, size_t y, size_t x)
{
    const size_t S = t->cut.S;
    float sum[3] = {t->conv_bias[0], t->conv_bias[1], t->conv_bias[2]};
    for (size_t i = y ? 0 : 1; i < 3 && y + i <= S; i++)
        for (size_t j = x ? 0 : 1; j < 3 && x + j <= S; j++)
            for (size_t c = 0; c < 3; c++) {
                const float value = image[((y + i - 1) * S + x + j - 1) * 3 + c];
                for (size_t o = 0; o < 3; o++)
                    sum[o] += t->conv_weight[o * 27 + (i * 3 + j) * 3 + c] * value;
            }
    memcpy(out, sum, sizeof sum);
}

static void convolve_task(void *arg, size_t task, int worker)
{
    const struct unpatchify_job *job = arg;
    const size_t S = job->t->cut.S, strips = (S + CONV_ROWS - 1) / CONV_ROWS;
    const size_t image = task / strips, y0 = task % strips * CONV_ROWS;
    if (tx_run_stopped(job->run, worker))
        return;
    for (size_t y = y0; y < tx_min(y0 + CONV_ROWS, S); y++)
        for (size_t x = 0; x < S; x++)
            convolve_pixel(job->t, job->after + ((image * S + y) * S + x) * 3, job->before + image * S * S * 3, y, x);
}

/* A whole picture is one patch of its own size. */
static void bytes_task(void *arg, size_t image, int worker)
{
    (void)worker;
    const struct unpatchify_job *job = arg;
    const size_t S = job->t->cut.S, pixels = S * S * 3;
    job->run->kernels->unpatchify_u8((uint8_t *)job->images + image * pixels, job->after + image * pixels, pixels,
                                     (struct tx_patches){S, S, 0});
}

static void put_images(const struct tx_run *run, const struct tx_detokenizer *t, const struct tx_detokenizer_buffers *buffers,
                       size_t count, void *images, int bytes)
{
    struct unpatchify_job job = {.run = run, .t = t, .patches = buffers->patches, .images = images, .bytes = bytes};
    if (t->convolves) {
        job.before = buffers->before;
        job.after = bytes ? buffers->after : images;
        job.images = buffers->before;
        job.bytes = 0;
    }
    tx_pool_run(run->threads, unpatchify_task, &job, count);
    if (!t->convolves)
        return;
    tx_pool_run(run->threads, convolve_task, &job, count * ((t->cut.S + CONV_ROWS - 1) / CONV_ROWS));
    job.images = images;
    if (bytes)
        tx_pool_run(run->threads, bytes_task, &job, count);
}

enum tx_status tx_detokenizer_run(const struct tx_run *run, const struct tx_detokenizer *t,
                                  const struct tx_detokenizer_buffers *buffers, const float *z, const struct tx_text *text,
                                  size_t B, void *images, int bytes)
{
    const size_t N = t->side.N, image_size = t->cut.S * t->cut.S * 3 * (bytes ? 1 : sizeof(float));
    for (size_t b0 = 0; b0 < B; b0 += buffers->side.images) {
        const size_t count = tx_min(buffers->side.images, B - b0);
        tx_side_begin(&t->side, &buffers->side, count, 1);
        tx_linear_run(run, &t->from_latent, buffers->side.part, tx_mat_f32(z + b0 * N * t->d, t->d),
                      &(struct tx_seq){count, buffers->side.part_start},
                      &(struct tx_epilogue_f32){.residual = buffers->side.part.data, .ldr = buffers->side.part.ld});
        if (tx_side_run(run, &t->side, &buffers->side, count, text, b0, 1, "detokenizer.") != TX_OK)
            return run->err->status;
        tx_linear_run(run, &t->to_pixels, buffers->patches, buffers->side.normed,
                      &(struct tx_seq){count, buffers->side.kept_start}, &(struct tx_epilogue_f32){.act = t->activation});
        put_images(run, t, buffers, count, (char *)images + b0 * image_size, bytes);
    }
    return tx_run_tick(run);
}
