/* One transformer block, shared by all three models:
 *
 *   x += attn(norm1(x));  x += cross(norm_cross(x), text) where there is one;  x += mlp(norm2(x))
 *
 * With adaLN the norms have no weights but take shift and scale from the conditioning vector, and what attention and MLP add is
 * gated.
 */
#ifndef TX_BLOCK_H
#define TX_BLOCK_H

#include "attend.h"
#include "linear.h"
#include "run.h"

struct tx_norm {
    float *weight, *bias;   /* [D], or NULL with adaLN */
};

struct tx_block {
    size_t D, H, F;
    float eps, mlp_eps;     /* of the norms; of norm2 */
    int gelu;               /* enum tx_activation */
    int cross;              /* 1: the cross-attention's parts are there */
    struct tx_norm norm1, norm_cross, norm2;
    struct tx_linear qkv;           /* [3D, D]: q, k, v, each heads x head width */
    struct tx_linear proj;          /* [D, D] */
    struct tx_linear cross_q;       /* [D, D] */
    struct tx_linear cross_kv;      /* [2D, D] */
    struct tx_linear cross_proj;    /* [D, D] */
    struct tx_linear fc1, fc2;      /* [F, D], [D, F] */
    /* Where some rows of every image come in the same in every call (learned tokens, in the first block): their queries, keys
     * and values, made at load, for rows fixed_first .. fixed_first + fixed_count. */
    struct tx_mat fixed_qkv;        /* [fixed_count, 3D] */
    size_t fixed_first, fixed_count; /* count 0: none */
    /* Rotary positions: queries and keys of each image's first `rotated` rows are turned, pair by pair of a head's columns. */
    size_t rotated;                 /* 0: none */
    float *angles;                  /* [H, rotated, Dh/2], as they are stored */
    struct tx_mat turns;            /* [rotated, D]: cosine and sine of each pair's angle, made at load */
};

/* Rows of shift, scale, gate of attention, then of the MLP. */
struct tx_modulation {
    const float *rows;      /* [G, 6D], ld */
    size_t ld;
    const int32_t *group;   /* [rows of x] */
    const struct tx_beside *next; /* what the block's products compute beside them: the next block's rows, say; or NULL */
};

/* Keys and values of the text, made by cross_kv: float32, or bfloat16 in bfloat16 and int8 models. */
struct tx_cross_text {
    struct tx_mat kv;           /* [text rows, 2D] */
    const struct tx_seq *seq;   /* the texts' rows in kv */
    const size_t *text_of;      /* [images]: which text an image reads; NULL: its own */
};

/* The activations that blocks work in; made by tx_block_plan for the largest of them. */
struct tx_block_buffers {
    struct tx_mat h;        /* [rows, D] in the dtype of the products: what a norm gives */
    struct tx_mat attended; /* [rows, D]: what attention gives; h itself, but in int8 models, where that is bfloat16 */
    struct tx_mat wide;     /* [rows, max(3D, F)]: queries, keys, values; then the MLP's inside. Its ld changes with its use */
    struct tx_mat inner;    /* [rows, F]: the MLP's inside in int8, int8 models only */
    struct tx_mat kept;     /* [kept rows, D] float32: the residual stream after a last block that keeps some rows only */
};

/* Which rows of each image the last block computes: count from `first` on. Others have served as keys and values. */
struct tx_keep {
    size_t first, count;
    const struct tx_seq *seq;   /* images of `count` rows each */
};

struct tx_arena;
void tx_block_plan(const struct tx_block *block, struct tx_block_buffers *buffers, struct tx_arena *arena, size_t rows,
                   size_t kept_rows);
size_t tx_block_scratch(const struct tx_block *block, const struct tx_kernels *kernels, size_t longest, size_t longest_text);

/* Runs the block on x [rows,D] float32 in place. With `keep`, the result is buffers->kept, compact, and x is spent. `name` and
 * `index` make the names that a tap sees: "NAME.blocks.INDEX.attn". */
void tx_block_run(const struct tx_run *run, const struct tx_block *block, struct tx_mat x, const struct tx_seq *seq,
                  const struct tx_block_buffers *buffers, const struct tx_modulation *modulation,
                  const struct tx_cross_text *text, const struct tx_keep *keep, const char *name, size_t index);

/* Room for the turns, and their values once the angles are there. */
void tx_block_plan_turns(struct tx_block *block, struct tx_arena *arena);
void tx_block_fill_turns(const struct tx_block *block);

/* Room for the fixed rows' queries, keys and values; on an arena without memory this only measures. */
void tx_block_plan_fixed(struct tx_block *block, struct tx_arena *arena, size_t first, size_t count);
/* Fills it from the rows x [fixed_count, D] float32; h has room for as many in the dtype of the products. */
void tx_block_fix(const struct tx_run *run, const struct tx_block *block, struct tx_mat x, struct tx_mat h);

/* LayerNorm over rows, on all threads, into out in its dtype; norm->out and ldo are filled in here. */
void tx_norm_run(const struct tx_run *run, struct tx_mat out, const struct tx_norm_f32 *norm);

#endif
