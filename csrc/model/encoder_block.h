/* One block of a text encoder:
 *
 *   norm before  x += attn(norm1(x));  x += mlp(norm2(x))          T5, CLIP
 *   norm after   x = norm1(x + attn(x));  x = norm2(x + mlp(x))     BERT
 *
 * The norm is a LayerNorm or an RMS norm; heads may be wider than D / H; scores may get a bias by distance, which is also how a
 * causal mask comes; the MLP is fc2(act(fc1 x)) or, gated, fc2(act(fc1[:F] x) * (fc1[F:] x)). All of it is data. block.h has
 * the image models' own block. */
#ifndef TX_ENCODER_BLOCK_H
#define TX_ENCODER_BLOCK_H

#include "attend.h"
#include "bind.h"
#include "outliers.h"

struct tx_encoder_block {
    size_t D, H, Dh, F;
    float eps, scale;       /* of the norms; of the scores, 0 for 1/sqrt(Dh) */
    int rms, norm_after, gated;
    int biased;             /* scores get a bias */
    int act;                /* enum tx_activation */
    struct tx_norm norm1, norm2;
    struct tx_linear qkv;   /* [3 H Dh, D] */
    struct tx_linear proj;  /* [D, H Dh] */
    struct tx_linear fc1;   /* [F, D], or [2F, D] where gated */
    struct tx_linear fc2;   /* [D, F]; by_column where its input has outliers, never with norm_after */
};

/* The activations that blocks work in. "Low": in the dtype of the product that takes it, where that is another. */
struct tx_encoder_buffers {
    struct tx_mat h;                        /* [rows, D]: what a norm gives, or x in the dtype of the products */
    struct tx_mat qkv;                      /* [rows, 3 H Dh] */
    struct tx_mat attended, attended_low;   /* [rows, H Dh] */
    struct tx_mat wide;                     /* [rows, 2F], where gated */
    struct tx_mat inner, inner_low;         /* [rows, F] */
    struct tx_outliers outliers;            /* of inner, where fc2 is by column */
};

/* What scores get beside q k: as struct tx_attend has it. */
struct tx_score_bias {
    const float *bias;
    size_t ld;
};

/* A caption's first key_count rows are its keys; NULL: all. */
void tx_encoder_block_run(const struct tx_run *run, const struct tx_encoder_block *block, struct tx_mat x,
                          const struct tx_seq *seq,
                          const struct tx_encoder_buffers *buffers, const struct tx_score_bias *bias, const size_t *key_count,
                              size_t index);

/* Lists its tensors; `biases`: every linear and norm has one. The sizes and kinds above, and the dtypes of its weights, are
 * set before. */
void tx_encoder_block_bind(struct tx_encoder_block *block, struct tx_tensors *tensors, int biases, size_t index);
void tx_encoder_block_plan(const struct tx_encoder_block *block, struct tx_encoder_buffers *buffers, struct tx_arena *arena,
                           size_t rows);
size_t tx_encoder_block_scratch(const struct tx_encoder_block *block, const struct tx_kernels *kernels, size_t longest);

/* A norm over rows of x into out, in out's dtype. */
void tx_encoder_norm_run(const struct tx_run *run, const struct tx_encoder_block *block, const struct tx_norm *norm,
                         struct tx_mat out,
                         struct tx_mat x, size_t rows);
/* PREFIX.weight and, but for an RMS norm, PREFIX.bias. */
void tx_encoder_norm_bind(struct tx_tensors *tensors, struct tx_norm *norm, size_t D, int rms, const char *prefix);

#endif
