/* Captions' token numbers -> the states of every token after the last block: T5, BERT, CLIP's text model.
 *
 *   x = token_embed[id]                                            T5
 *     + pos_embed[place] (+ type_embed[0], then a norm)             CLIP (BERT)
 *   blocks; T5: scores get relative_bias[bucket(key - query)]; CLIP: a token sees itself and what came before
 *   norm                                                           T5, CLIP
 *   CLIP: pooled = pooled_proj(the state of one token)
 *
 * Captions come one after the other, each with its own number of rows: no padding is computed. As many as give ROWS_TOGETHER
 * rows go through all blocks together; a caption's numbers do not depend on which. */
#ifndef TX_TEXT_ENCODER_H
#define TX_TEXT_ENCODER_H

#include "config.h"
#include "encoder_block.h"
#include "embedding_table.h"

struct tx_text_encoder {
    struct tx_text_config config;
    size_t buckets, biases;         /* T5: of a relative bias; how many there are, 1 or one a block. 0: none */
    struct tx_table tokens;         /* [V, D] */
    float *positions;               /* [max_positions, D], or NULL */
    float *types;                   /* [token_types, D], BERT */
    struct tx_norm embed_norm;      /* BERT */
    float **relative;               /* [biases] of [buckets, H] */
    struct tx_encoder_block *blocks; /* [depth] */
    struct tx_norm norm;            /* T5, CLIP */
    struct tx_linear pooled;        /* [P, D], CLIP, where config.projection_dim is not 0 */
};

/* What is to be encoded, checked by the caller, and where it goes. */
struct tx_captions {
    size_t B, t;
    const int32_t *ids;             /* one caption after the other */
    const int32_t *tokens;          /* [B]: how many of them each has, 1 to t */
    const int32_t *keys;            /* [B]: how many of those others may look at, from the first on; the rest is padding */
    const int32_t *pooled_at;       /* [B]: the token whose state is pooled; looked at where there is `pooled` */
    float *states;                  /* [B,t,D], rows behind a caption's are not written; or NULL */
    float *pooled;                  /* [B,P]; or NULL */
};

/* What goes together, at most. */
struct tx_text_group {
    size_t captions, rows, longest;
    int pooled;
};

struct tx_text_buffers {
    struct tx_text_group most;
    struct tx_mat x;                /* [rows, D] */
    struct tx_mat picked;           /* [captions, D]: states that are pooled */
    struct tx_mat projected;        /* [captions, P] */
    float *bias;                    /* [heads or 1][2 longest - 1, and slack at both ends] */
    size_t ldbias;
    struct tx_encoder_buffers block;
    size_t *start, *keys, *one;     /* [captions + 1] */
};

enum tx_status tx_text_encoder_init(struct tx_text_encoder *encoder, const struct tx_text_config *config,
                                    struct tx_tensors *tensors,
                                    struct tx_error *err);
void tx_text_encoder_free(struct tx_text_encoder *encoder);

/* The largest groups of these captions; of B captions of t tokens. */
struct tx_text_group tx_text_groups(const struct tx_captions *captions);
struct tx_text_group tx_text_groups_even(size_t B, size_t t);
void tx_text_encoder_plan(const struct tx_text_encoder *encoder, struct tx_text_buffers *buffers, struct tx_arena *arena,
                          const struct tx_text_group *most);
size_t tx_text_encoder_scratch(const struct tx_text_encoder *encoder, const struct tx_kernels *kernels, size_t t);
enum tx_status tx_text_encoder_run(const struct tx_run *run, const struct tx_text_encoder *encoder,
                                   const struct tx_text_buffers *buffers,
                                   const struct tx_captions *captions);

#endif
