/* What tokenizer and detokenizer share: a ViT over [patches P; registers R; latents N; text t] of which one part is kept.
 *
 *   sequence = [patches; registers; latents; text_proj(text)] + pos    (text in context; else it stays outside)
 *   input norm, where the config says so
 *   blocks, with cross-attention to text_proj(text) and rotary positions on the patch rows where the config says so
 *   norm of the kept part
 *
 * A side without text has no text part. Each image has its own number of text rows: rows that a mask leaves out are not there
 * at all.
 */
#ifndef TX_SIDE_H
#define TX_SIDE_H

#include "bind.h"
#include "config.h"

struct tx_side {
    size_t D, H, F, depth, P, R, N, Nt, Dt, classes; /* Nt 0: no text on this side */
    float eps;
    int cross;                  /* text by cross-attention rather than in context */
    struct tx_linear text_proj; /* [D, Dt]; or, from labels: */
    float *class_embed;         /* [classes, D], the one text token */
    float *pos_embed;           /* [P + R + N (+ Nt in context), D] */
    float *registers;           /* [R, D], tokens that are only attended to; NULL where R is 0 */
    float *learned;             /* the part that is learned tokens: [N, D] in the tokenizer, [P, D] in the detokenizer */
    struct tx_norm input_norm;  /* before the first block, or NULLs */
    struct tx_block *blocks;    /* [depth] */
    struct tx_norm norm;
};

/* Text as it comes: embeddings [B,t,Dt] of which the first lengths[b] rows count; or labels [B]. All NULL on a side without. */
struct tx_text {
    const float *rows;
    size_t t;
    const int32_t *lengths;
    const int32_t *labels;
};

struct tx_side_buffers {
    size_t images;              /* room for so many at a time */
    size_t longest;             /* rows of one image, at most */
    struct tx_mat x;            /* [images * longest, D] */
    struct tx_mat part;         /* [images * (P or N), D]: the part that comes from outside, positions added */
    struct tx_mat normed;       /* [images * (N or P), D]: the result */
    struct tx_mat text_in;      /* [images * t, Dt] */
    struct tx_mat text_narrow;     /* the same in text_proj's dtype; text_in itself where that is float32 */
    struct tx_mat text;         /* [images * t, D] */
    struct tx_mat cross_in;     /* the same in cross_kv's dtype, cross-attention only; text itself where that is float32 */
    struct tx_mat kv;           /* [images * t, 2D], cross-attention only */
    struct tx_block_buffers block;
    size_t *start, *text_start, *part_start, *kept_start;  /* [images + 1] */
};

enum tx_status tx_side_init(struct tx_side *side, const struct tx_textok_config *config, const struct tx_side_config *sizes,
                            int has_text, struct tx_error *err);
/* Names and shapes of what the sides share, with PREFIX "tokenizer." or "detokenizer.". */
void tx_side_bind(struct tx_side *side, struct tx_tensors *tensors, const struct tx_textok_config *config, const char *prefix);
void tx_side_free(struct tx_side *side);

/* What depends on the weights alone: rotary turns, and the first block's queries, keys and values of the learned tokens. Room
 * for them, in the model's memory; and, once the tensors are there, their values. */
void tx_side_plan_fixed(struct tx_side *side, struct tx_arena *arena, int keep_patches);
enum tx_status tx_side_fix(const struct tx_side *side, const struct tx_kernels *kernels, int threads, struct tx_error *err);

/* Images that are computed together: enough rows to fill the kernels, few enough to stay in the caches. */
size_t tx_side_together(const struct tx_side *side, size_t batch, size_t t);
void tx_side_plan(const struct tx_side *side, struct tx_side_buffers *buffers, struct tx_arena *arena, size_t images, size_t t,
                  int keep_patches);
size_t tx_side_scratch(const struct tx_side *side, const struct tx_kernels *kernels, size_t t);

/* Positions of the part that comes from outside, copied into buffers->part for `images` images: the linear that makes the part
 * adds them. */
void tx_side_begin(const struct tx_side *side, const struct tx_side_buffers *buffers, size_t images, int keep_patches);

/* From buffers->part to the normed kept rows, in buffers->normed [images * kept, D]. `b0`: the first image's index in text. The
 * tokenizer keeps the latents and gets patches from outside, the detokenizer the other way round (keep_patches). */
enum tx_status tx_side_run(const struct tx_run *run, const struct tx_side *side, const struct tx_side_buffers *buffers,
                           size_t images, const struct tx_text *text, size_t b0, int keep_patches, const char *prefix);

#endif
