/* DiT (adaLN-Zero), class-conditional or text-to-image, over latent tokens or, as the original, over patches of a latent image.
 *
 *   x_embedder    C pp -> D, + pos_embed      XL: 28 blocks, width 1152, 16 heads
 *   c             t_embedder(t) + y,  y = a class's row, or text_pool(mean of the text's rows)
 *   blocks        adaLN(c); text-to-image with an ungated cross-attention to text_proj(text)
 *   final_layer   modulated norm, D -> pp C (2C with a learned variance: prediction, then variance fraction)
 *
 * What does not depend on x is computed ahead: modulations for many (timestep, condition) pairs in one product, and the text's
 * keys and values once a sample. An evaluation then reads neither the adaLN weights (a third of the model) nor the text.
 */
#ifndef TX_DIT_H
#define TX_DIT_H

#include "bind.h"
#include "config.h"
#include "side.h"

struct tx_dit {
    size_t D, H, F, depth, T, C, out_channels, classes, Nt, Dt, freq, freq_shift, guided; /* classes 0: text-to-image */
    /* A sample is [rows, channels, plane] with C channels, a prediction the same with out_channels: tokens are T rows and plane
     * 1, a latent image is one row and plane S S. Sampling knows no more of it. */
    size_t rows, plane;
    size_t S, p;                        /* sides of a latent image (0: tokens) and of a patch (1) */
    float eps;
    struct tx_linear x_embedder;        /* [D, C pp], (channel, row, column) within a patch */
    float *pos_embed;                   /* [T, D] */
    struct tx_linear t_mlp0, t_mlp2;    /* [D, freq], [D, D] */
    float *class_table;                 /* [classes + 1, D], the null class last */
    struct tx_linear text_proj;         /* [D, Dt] */
    struct tx_linear text_pool;         /* [D, Dt] */
    float *null_text;                   /* [Nt, Dt] */
    struct tx_block *blocks;            /* [depth] */
    struct tx_linear *ada;              /* [depth] of [6D, D] */
    struct tx_linear final_ada;         /* [2D, D]: shift, scale */
    struct tx_linear final_linear;      /* [pp out_channels, D], (row, column, channel) within a patch */
};

enum tx_status tx_dit_init(struct tx_dit *dit, const struct tx_dit_config *config, struct tx_tensors *tensors,
                           struct tx_error *err);
void tx_dit_free(struct tx_dit *dit);

/* What a run works in. Conditions 0..B-1 are the images' own; condition B, where there is one, is the null. */
struct tx_dit_buffers {
    size_t conditions;          /* B, or B + 1 with the null */
    size_t pairs;               /* room for so many (timestep, condition) pairs at a time */
    size_t images;              /* evaluated together */
    struct tx_mat y;            /* [conditions, D] */
    struct tx_mat time;         /* [pairs, D] */
    struct tx_mat frequencies;  /* [pairs, freq] */
    struct tx_mat c;            /* [pairs, D] */
    struct tx_mat c_narrow;        /* the same in the modulations' dtype; c itself where that is float32 */
    struct tx_mat mod;          /* [depth][pairs, 6D] */
    struct tx_mat final_mod;    /* [pairs, 2D] */
    struct tx_mat text_in, text_narrow, text, cross_in; /* [texts' rows, Dt or D], as in side.h */
    struct tx_mat pooled;       /* [conditions, Dt] */
    struct tx_mat kv;           /* [depth][texts' rows, 2D] */
    size_t text_rows;           /* room, in rows */
    size_t *text_start;         /* [conditions + 1] */
    size_t *one_start;          /* [pairs + 1], 0 1 2 ...: each row a segment of its own */
    size_t *start, *text_of;    /* [images + 1], [images] */
    struct tx_mat in, x, out, normed; /* [images * T, C pp], [images * T, D], [images * T, pp out_channels], [images * T, D] */
    int32_t *group;             /* [images * T] */
    /* So many pairs' modulations, but the first block's, are left to an evaluation, beside its products. */
    size_t beside;
    struct tx_block_buffers block;
};

/* B images, `null` whether the null condition is needed beside, t text rows each, `steps` timesteps. */
void tx_dit_plan(const struct tx_dit *dit, struct tx_dit_buffers *buffers, struct tx_arena *arena, size_t B, int null, size_t t,
                 size_t steps);
size_t tx_dit_scratch(const struct tx_dit *dit, const struct tx_kernels *kernels, size_t t);

/* y, and the text's keys and values, of conditions 0..B-1 (none where text is NULL) and, after them, the null. */
void tx_dit_condition(const struct tx_run *run, const struct tx_dit *dit, struct tx_dit_buffers *buffers,
                      const struct tx_text *text, size_t B, int null);

/* Modulations of `count` pairs: pair i is timestep t[i] with condition condition[i]. count <= buffers->pairs. `beside`: what
 * one evaluation alone will use, which then computes most of them itself where that is faster. */
void tx_dit_modulate(const struct tx_run *run, const struct tx_dit *dit, struct tx_dit_buffers *buffers, const float *t,
                     const size_t *condition, size_t count, int beside);

/* Numbers in a sample, and in a prediction. */
static inline size_t tx_dit_sample_size(const struct tx_dit *dit)
{
    return dit->rows * dit->C * dit->plane;
}

static inline size_t tx_dit_output_size(const struct tx_dit *dit)
{
    return dit->rows * dit->out_channels * dit->plane;
}

/* One evaluation of E images. Image e is x[image[e]] of the samples x, with the modulations of pair[e] and the text of
 * condition[e]; out: E predictions. */
enum tx_status tx_dit_evaluate(const struct tx_run *run, const struct tx_dit *dit, struct tx_dit_buffers *buffers,
                               const float *x, const size_t *image, const size_t *pair, const size_t *condition, size_t E,
                               float *out);

/* One evaluation of B images at timesteps t [B]: out, B predictions. text NULL: the null condition for all. */
enum tx_status tx_dit_denoise(const struct tx_run *run, const struct tx_dit *dit, struct tx_arena *arena, const float *x,
                              const float *t, const struct tx_text *text, size_t B, float *out);

#endif
