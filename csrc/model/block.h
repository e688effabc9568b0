/* One transformer block, shared by all three models:
 *
 *   x += attn(norm1(x));  x += cross(norm_cross(x), text) where there is one;  x += mlp(norm2(x))
 *
 * With adaLN the norms have no weights but take shift and scale from the conditioning vector, and what attention and MLP add is gated.
 */
#ifndef TX_BLOCK_H
#define TX_BLOCK_H

#include "linear.h"
#include "run.h"

struct tx_norm {
    float *weight, *bias;   /* [D], or NULL with adaLN */
};

struct tx_block {
    size_t D, H, F;
    float eps;
    int gelu;               /* enum tx_activation */
    int cross;              /* 1: the cross-attention's parts are there */
    struct tx_norm norm1, norm_cross, norm2;
    struct tx_linear qkv;           /* [3D, D]: q, k, v, each heads x head width */
    struct tx_linear proj;          /* [D, D] */
    struct tx_linear cross_q;       /* [D, D] */
    struct tx_linear cross_kv;      /* [2D, D] */
    struct tx_linear cross_proj;    /* [D, D] */
    struct tx_linear fc1, fc2;      /* [F, D], [D, F] */
};

/* Rows of shift, scale, gate of attention, then of the MLP. */
struct tx_modulation {
    const float *rows;      /* [G, 6D], ld */
    size_t ld;
    const int32_t *group;   /* [rows of x] */
};

/* Keys and values of the text, made by cross_kv. */
struct tx_cross_text {
    const float *kv;        /* [text rows, 2D], ld */
    size_t ld;
    const struct tx_seq *seq;   /* the texts' rows in kv */
    const size_t *text_of;      /* [images]: which text an image reads; NULL: its own */
};

/* The activations that blocks work in; made by tx_block_plan for the largest of them. */
struct tx_block_buffers {
    float *h;               /* [rows, D], ld tx_ld(D): what a norm or an attention gives */
    float *wide;            /* [rows, max(3D, F)]: queries, keys, values; then the MLP's inside */
    float *kept;            /* [kept rows, D]: the residual stream after the last block, where it keeps some rows only */
};

/* Which rows of each image the last block computes: count from `first` on. Others have served as keys and values. */
struct tx_keep {
    size_t first, count;
    const struct tx_seq *seq;   /* images of `count` rows each */
};

struct tx_arena;
void tx_block_plan(struct tx_block_buffers *buffers, struct tx_arena *arena, size_t rows, size_t kept_rows, size_t D, size_t F);
size_t tx_block_scratch(const struct tx_kernels *kernels, size_t longest, size_t longest_text, size_t D, size_t H);

/* Runs the block on x [rows,D] (ld tx_ld(D)) in place. With `keep`, the result is buffers->kept, compact, and x is spent. `name` and
 * `index` make the names that a tap sees: "NAME.blocks.INDEX.attn". */
void tx_block_run(const struct tx_run *run, const struct tx_block *block, float *x, const struct tx_seq *seq,
                  const struct tx_block_buffers *buffers, const struct tx_modulation *modulation, const struct tx_cross_text *text,
                  const struct tx_keep *keep, const char *name, size_t index);

/* LayerNorm over rows, on all threads. */
void tx_norm_run(const struct tx_run *run, const struct tx_norm_f32 *norm);

#endif
