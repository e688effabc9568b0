/* The kernel contract: what every ISA row must compute.
 *
 * A kernel is a pure function on pointers. It allocates nothing, starts no threads, knows no models and cannot fail: the caller
 * has checked every size. Slots are named op_dtype, implementations txk_op_dtype_isa, in a folder a row, an op a file.
 * dispatch.c copies the reference table and lays over it each row whose CPU bits are there, so a slot is never NULL.
 *
 * Letters, used everywhere: B batch, T tokens, D width, H heads, Dh head width, F MLP width, Np/Nl/Nt patches, latents, text
 * tokens; in a product C[M,N] = A[M,K] W[N,K]^T. Matrices are row-major; ld* is the distance between rows in elements.
 *
 * Determinism: an element of a result depends only on the values it is computed from, never on the position of its row in a
 * block, on how many rows come with it or on which columns are asked for. The order of every sum is a function of K, D, Tk and
 * Dh alone.
 */
#ifndef TXK_KERNELS_H
#define TXK_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* QUICK_GELU: x / (1 + exp(-1.702 x)); RELU: max(x, 0). */
enum tx_activation {
    TX_ACT_NONE, TX_ACT_GELU_ERF, TX_ACT_GELU_TANH, TX_ACT_SILU, TX_ACT_TANH, TX_ACT_QUICK_GELU, TX_ACT_RELU, TX_ACT_COUNT
};

/* What happens to a product before it is stored:
 *   y = act(acc + bias);   out = residual ? residual + (gate ? gate[group[row]] : 1) * y : y
 * `residual` may be `out` itself (same ld). Row indices are the caller's, so `row` 0 is the first row of `out`. */
struct tx_epilogue_f32 {
    const float *bias;      /* [N] or NULL */
    int act;                /* enum tx_activation */
    const float *residual;  /* [M,N], ld ldr; or NULL */
    size_t ldr;
    const float *gate;      /* [G,N], ld ldg; or NULL (needs residual) */
    size_t ldg;
    const int32_t *group;   /* [M], which gate row each row takes; NULL: row 0 for all */
};

/* What a product may fetch while it multiplies: hints, which change no bit and may be ignored. */
struct tx_fetch {
    const void *next;       /* where the weights begin that this thread reads after columns n0..n1, or NULL */
    const void *beside;     /* other memory that it reads right after: fetched a little with each tile; see gemm_f32_beside */
    size_t beside_bytes;
};

/* One block of a product: rows 0..M of A against columns n0..n1 of the packed W; n0 is a multiple of gemm_f32_nr. `out`,
 * `residual`, `bias` and `gate` are indexed by the full column number. */
struct tx_gemm_f32 {
    float *out;             /* [M,N], ld ldo */
    size_t ldo;
    const float *a;         /* [M,K], ld lda; must not overlap out */
    size_t lda;
    const float *w;         /* packed by gemm_f32_pack of the same row */
    size_t M, N, K;
    size_t n0, n1;
    struct tx_epilogue_f32 epilogue;
    struct tx_fetch fetch;
};

/* What may be added to the scores: a number for each distance between query and key, whatever the two are. A causal mask is
 * TX_MASKED for all negative distances; key 0 must not be masked. */
#define TX_MASKED (-1e30f)
enum { TX_BIAS_SLACK = 64 };

/* One head of one image: out = softmax(scale (q k^T + bias)) v, with rows of q in any number and, without bias, any order.
 * Never stores more scores than a strip. */
struct tx_attention_f32 {
    float *out;             /* [Tq,Dh], ld ldo; must not overlap the inputs */
    size_t ldo;
    const float *q;         /* [Tq,Dh], ld ldq */
    size_t ldq;
    const float *k;         /* [Tk,Dh], ld ldk */
    size_t ldk;
    const float *v;         /* [Tk,Dh], ld ldv */
    size_t ldv;
    size_t Tq, Tk, Dh;      /* each at least 1 */
    float scale;            /* 1/sqrt(Dh); 1 in T5 */
    const float *bias;      /* or NULL: row i of q and row j of k get bias[i - j]; TX_BIAS_SLACK more are there at either end */
    void *scratch;          /* attention_f32_scratch(Tk, Dh) bytes, 64-byte aligned */
};

/* y = (x - mean(x)) / sqrt(var(x) + eps), each row over its D elements (population variance); with `rms` y = x /
 * sqrt(mean(x^2) + eps); then y = y * weight + bias where they are given; then y = y * (1 + scale[g]) + shift[g], g =
 * group[row], where scale is given. */
struct tx_norm_f32 {
    float *out;             /* [M,D], ld ldo; may be x itself */
    size_t ldo;
    const float *x;         /* [M,D], ld ldx */
    size_t ldx;
    size_t M, D;
    float eps;
    int rms;                     /* the mean is not taken off */
    const float *weight, *bias;  /* [D] or NULL; bias needs weight */
    const float *shift, *scale;  /* [G,D], ld ldm, both or neither */
    size_t ldm;
    const int32_t *group;        /* [M]; NULL: row 0 for all */
};

/* The inside of a gated MLP: out [M,F] = act(x) y, element by element. All three are float32 or all bfloat16, computed in
 * float32; in bfloat16 out's rows are zero padded to tx_k_padded(F). out may be x. */
struct tx_gated {
    void *out;              /* [M,F], ld ldo */
    size_t ldo;
    const void *x, *y;      /* [M,F], ld ldx */
    size_t ldx;
    size_t M, F;
    int act;                /* enum tx_activation */
};

/* How an image of S x S pixels is cut into patches: p divides S, and o is at most p / 2. */
struct tx_patches {
    size_t S, p, o;
};

/* One sampling step on n elements, all products and sums in double, x stored back as float32:
 * x0 = u[0] x + u[1] m; x = u[2] x + u[3] m + u[4] x0_prev + u[5] noise + u[6] exp(0.5 (w u[8] + (1-w) u[7])) noise, w =
 * (v+1)/2 and x0_prev becomes x0. v NULL: the last term is left out; noise NULL: the last two are. u[9] is reserved. */
struct tx_step_f32 {
    float *x;               /* [n], state, in and out */
    float *x0_prev;         /* [n], in and out */
    const float *m;         /* [n] the model's prediction */
    const float *v;         /* [n] variance fraction in [-1,1], or NULL */
    const float *noise;     /* [n] or NULL */
    const double *u;        /* [10] */
    size_t n;
};

/* ---- Narrow: bfloat16, int8 and int4 ----
 *
 * A matrix that is multiplied lies in rows padded to a multiple of TX_K_PAD elements; the padding holds zeros, and so does a
 * packed weight's. bfloat16 is the upper half of a float32, rounded to nearest even (NaN stays NaN), kept as uint16_t. Products
 * of bfloat16 are summed in float32, subnormal factors may count as 0. int8 is symmetric: activations have a scale a row
 * (token), weights a scale an output row; scale = max|x| / 127 and q = round to nearest even of x * (127 / max|x|), |q| <= 127
 * (a row whose max|x| is below 2^-100 counts as zeros, with scale 1; a row with an Inf or NaN gets scale NaN and zeros). Sums
 * are exact int32, the same on every row of the dispatch table: y = (float)sum * (a_scale[row] * w_scale[n]).
 *
 * int4 is of weights alone, and activations are int8: a weight is d s q, q in -8..7, s in 0..16 of each TX_INT4_GROUP along K
 * (the last one may be shorter), d of each output row. s q is a byte, so the result has the bits of gemm_int8 on those bytes
 * with w_scale d. Rows of q come two to a byte: q + 8 of element 2i in the low four bits of byte i. */
enum { TX_K_PAD = 64 };
enum tx_dtype { TX_F32, TX_BF16, TX_INT8, TX_INT4, TX_DTYPE_COUNT }; /* INT4: weights only */
enum { TX_INT4_GROUP = 32 };

static inline size_t tx_k_padded(size_t K)
{
    return (K + TX_K_PAD - 1) / TX_K_PAD * TX_K_PAD;
}

static inline size_t tx_int4_row(size_t K)
{
    return (K + 1) / 2;
}

static inline size_t tx_int4_groups(size_t K)
{
    return (K + TX_INT4_GROUP - 1) / TX_INT4_GROUP;
}

static inline int8_t tx_int4_at(const uint8_t *row, size_t k)
{
    return (int8_t)((row[k / 2] >> 4 * (k % 2) & 15) - 8);
}

static inline float tx_float_of_bf16(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint16_t tx_bf16_of_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x)
        return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* As tx_gemm_f32, with a product in bfloat16 or int8. */
struct tx_gemm_narrow {
    void *out;              /* [M,N], ld ldo: float32, or bfloat16 where out_bf16 (then without residual) */
    size_t ldo;
    int out_bf16;
    const void *a;          /* [M,K] bfloat16 or int8, ld lda >= tx_k_padded(K), 64-byte aligned rows, zero padded */
    size_t lda;
    const float *a_scale;   /* [M], int8 and int4 */
    const void *w;          /* packed */
    const float *w_scale;   /* [N], int8; int4: d */
    void *scratch;          /* int4: gemm_int4_scratch(K) bytes, 64-byte aligned */
    size_t M, N, K;
    size_t n0, n1;
    struct tx_epilogue_f32 epilogue;
    struct tx_fetch fetch;
};

/* As tx_attention_f32; q, k, v and out are bfloat16. Scores, softmax and sums are float32, probabilities may enter their
 * product as bfloat16; in attention_int8 a row may quantise what both products take, and there is no bias. */
struct tx_attention_bf16 {
    uint16_t *out;
    size_t ldo;
    const uint16_t *q;
    size_t ldq;
    const uint16_t *k;
    size_t ldk;
    const uint16_t *v;
    size_t ldv;
    size_t Tq, Tk, Dh;
    float scale;
    const float *bias;
    void *scratch;          /* attention_bf16_scratch or attention_int8_scratch(Tk, Dh) bytes, 64-byte aligned */
};

struct tx_kernels {
    /* Columns of a packed panel: n0 of a block is a multiple of it. */
    size_t gemm_f32_nr;
    /* 1 where gemm_f32 is worth running; 0: the model prefers a BLAS (the reference row is written to be read). */
    int gemm_f32_fast;
    /* 1 where gemm_f32 fetches what tx_fetch asks for beside it; gemm_bf16_beside and gemm_int8_beside likewise. 0 on tiles,
     * whose products leave memory no rest. */
    int gemm_f32_beside;
    /* Elements of the packed form of W[N,K]. */
    size_t (*gemm_f32_packed)(size_t N, size_t K);
    /* dst (64-byte aligned) <- rows n0..n1 of W[N,K], row-major; n0 a multiple of nr, n1 too or N. Fills padding with zeros. */
    void (*gemm_f32_pack)(float *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1);
    /* W[N,K] row-major <- packed, bit for bit. */
    void (*gemm_f32_unpack)(float *w, const float *packed, size_t N, size_t K);
    /* out[0:M, n0:n1] = epilogue(a w^T). float32 products and sums. */
    void (*gemm_f32)(const struct tx_gemm_f32 *job);

    /* The epilogue alone: out [M,N] = epilogue(acc [M,N]), for products computed by a BLAS. acc may be out. */
    void (*epilogue_f32)(float *out, size_t ldo, const float *acc, size_t ldacc, size_t M, size_t N,
                         const struct tx_epilogue_f32 *epilogue);

    /* Bytes of scratch one call of attention_f32 needs. */
    size_t (*attention_f32_scratch)(size_t Tk, size_t Dh);
    void (*attention_f32)(const struct tx_attention_f32 *job);

    /* Products in bfloat16. Packed sizes are in elements; a panel has gemm_bf16_nr columns. */
    size_t gemm_bf16_nr;
    int gemm_bf16_beside;
    size_t (*gemm_bf16_packed)(size_t N, size_t K);
    void (*gemm_bf16_pack)(uint16_t *dst, const float *w, size_t N, size_t K, size_t n0, size_t n1);   /* rounds */
    void (*gemm_bf16_unpack)(uint16_t *w, const uint16_t *packed, size_t N, size_t K);
    void (*gemm_bf16)(const struct tx_gemm_narrow *job);

    /* Products in int8: packs rows that are int8 already (quantize_int8 makes them). */
    size_t gemm_int8_nr;
    int gemm_int8_beside;
    /* Where some weights are multiplied faster than others: any rows [N,K], side by side, are rounded to such in place, and
     * their scales follow: no longer max|x| / 127. A second call leaves them as they are. gemm_int8 is as exact for weights
     * that were not fitted, -128 among them. NULL: all are alike. */
    void (*gemm_int8_fit)(int8_t *w, float *scale, size_t N, size_t K);
    size_t (*gemm_int8_packed)(size_t N, size_t K);
    void (*gemm_int8_pack)(int8_t *dst, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1);
    void (*gemm_int8_unpack)(int8_t *w, const int8_t *packed, size_t N, size_t K);
    void (*gemm_int8)(const struct tx_gemm_narrow *job);

    /* Products with weights of 4 bits; sizes in bytes. Packs rows of q [N, tx_int4_row(K)] and s [N, tx_int4_groups(K)]. */
    size_t gemm_int4_nr;
    size_t (*gemm_int4_packed)(size_t N, size_t K);
    void (*gemm_int4_pack)(uint8_t *dst, const uint8_t *q, const uint8_t *s, size_t N, size_t K, size_t n0, size_t n1);
    void (*gemm_int4_unpack)(uint8_t *q, uint8_t *s, const uint8_t *packed, size_t N, size_t K);
    size_t (*gemm_int4_scratch)(size_t K);
    void (*gemm_int4)(const struct tx_gemm_narrow *job);

    size_t (*attention_bf16_scratch)(size_t Tk, size_t Dh);
    void (*attention_bf16)(const struct tx_attention_bf16 *job);
    /* Of int8 models, without bias: with one they take attention_bf16. A row whose products in int8 are not faster here, or
     * that has none, puts its attention_bf16. */
    size_t (*attention_int8_scratch)(size_t Tk, size_t Dh);
    void (*attention_int8)(const struct tx_attention_bf16 *job);

    /* Rows of float32 or bfloat16 (from_bf16) -> bfloat16 or int8 with scales [M]; K is padded with zeros up to
     * tx_k_padded(K). */
    void (*round_bf16)(uint16_t *out, size_t ldo, const float *x, size_t ldx, size_t M, size_t K);
    void (*quantize_int8)(int8_t *out, size_t ldo, float *scale, const void *x, int from_bf16, size_t ldx, size_t M, size_t K);

    /* norm_f32 whose result goes straight into the next product: job->out is bfloat16, or int8 with scales [M]; both zero
     * padded. */
    void (*norm_bf16)(const struct tx_norm_f32 *job, uint16_t *out);
    void (*norm_int8)(const struct tx_norm_f32 *job, int8_t *out, float *scale);

    void (*norm_f32)(const struct tx_norm_f32 *job);

    /* out = act(x), n elements; out may be x. */
    void (*activate_f32)(float *out, const float *x, size_t n, int act);

    void (*gated_f32)(const struct tx_gated *job);
    void (*gated_bf16)(const struct tx_gated *job);

    void (*step_f32)(const struct tx_step_f32 *job);

    /* Rotary positions, in place: columns 2j and 2j + 1 of row m are turned by an angle whose cosine and sine are turns[m][2j]
     * and turns[m][2j + 1]:  x' = x cos - y sin,  y' = x sin + y cos. x [M,n], ld ldx; turns [M,n], ld ldt; n even. */
    void (*rotate_f32)(float *x, size_t ldx, const float *turns, size_t ldt, size_t M, size_t n);
    void (*rotate_bf16)(uint16_t *x, size_t ldx, const float *turns, size_t ldt, size_t M, size_t n);

    /* Pixels to patch rows and back. Image [S,S,3] in (row, column, channel) order; patches [(S/p)^2, 3ww] in raster order of
     * patches, pixels of a patch in (row, column, channel) order, ld ldp. A patch is a window of w = p + 2o pixels, p of its
     * own and o <= p/2 of its neighbours' on every side; outside the image they are zeros, and back windows add up, row by row
     * from the top left. uint8: v / 127.5 - 1, and back clip, then floor((v + 1) 127.5 + 0.5). */
    void (*patchify_u8)(float *patches, size_t ldp, const uint8_t *image, struct tx_patches cut);
    void (*patchify_f32)(float *patches, size_t ldp, const float *image, struct tx_patches cut);
    void (*unpatchify_u8)(uint8_t *image, const float *patches, size_t ldp, struct tx_patches cut);
    void (*unpatchify_f32)(float *image, const float *patches, size_t ldp, struct tx_patches cut);
};

/* Every slot, and WITH it the fields that come from the same row: a packed layout, or the size of a scratch. */
#define TXK_SLOTS(X, WITH)                                                                                         \
    X(gemm_f32) WITH(gemm_f32, gemm_f32_nr) WITH(gemm_f32, gemm_f32_fast) WITH(gemm_f32, gemm_f32_beside)          \
    WITH(gemm_f32, gemm_f32_packed) WITH(gemm_f32, gemm_f32_pack) WITH(gemm_f32, gemm_f32_unpack)                  \
    X(epilogue_f32)                                                                                                \
    X(attention_f32) WITH(attention_f32, attention_f32_scratch)                                                    \
    X(gemm_bf16) WITH(gemm_bf16, gemm_bf16_nr) WITH(gemm_bf16, gemm_bf16_beside) WITH(gemm_bf16, gemm_bf16_packed) \
    WITH(gemm_bf16, gemm_bf16_pack) WITH(gemm_bf16, gemm_bf16_unpack)                                              \
    X(gemm_int8) WITH(gemm_int8, gemm_int8_nr) WITH(gemm_int8, gemm_int8_beside) WITH(gemm_int8, gemm_int8_fit)    \
    WITH(gemm_int8, gemm_int8_packed) WITH(gemm_int8, gemm_int8_pack) WITH(gemm_int8, gemm_int8_unpack)            \
    X(gemm_int4) WITH(gemm_int4, gemm_int4_nr) WITH(gemm_int4, gemm_int4_packed) WITH(gemm_int4, gemm_int4_pack)   \
    WITH(gemm_int4, gemm_int4_unpack) WITH(gemm_int4, gemm_int4_scratch)                                           \
    X(attention_bf16) WITH(attention_bf16, attention_bf16_scratch)                                                 \
    X(attention_int8) WITH(attention_int8, attention_int8_scratch)                                                 \
    X(round_bf16) X(quantize_int8) X(norm_bf16) X(norm_int8)                                                       \
    X(norm_f32) X(activate_f32) X(gated_f32) X(gated_bf16) X(step_f32) X(rotate_f32) X(rotate_bf16)                \
    X(patchify_u8) X(patchify_f32) X(unpatchify_u8) X(unpatchify_f32)
#define TXK_NOT_WITH(slot, field)

/* `rounds` rounds of multiply-adds in registers, which touch no memory; returns how many operations that was. Over their time:
 * the most that this thread can do, of which benchmarks state the rates of kernels as a share. */
typedef double tx_peak_loop(size_t rounds);

/* A row of the dispatch table: a name as TEXTOK_ISA takes it, the CPU bits it needs (base/cpu.h), the slots it fills (others
 * NULL), and the loops in registers whose instructions it brings, by the dtype of the factors (others NULL). Each is defined in
 * its folder's table.c. */
struct tx_row {
    const char *name;
    uint32_t needs;
    const struct tx_kernels *slots;
    tx_peak_loop *peak[TX_DTYPE_COUNT];
};

/* Rows compiled in, worst first; the reference is row 0. */
extern const struct tx_row *const tx_rows[];
extern const int tx_num_rows;

/* The table of row `row` laid over the ones before it, as that ISA would run. Which row each slot came from: tx_slot_row. */
const struct tx_kernels *tx_kernels_row(int row);
const char *tx_slot_row(int row, const char *slot);

/* The loop in registers of row `row` or the best before it that has one; NULL: none. */
tx_peak_loop *tx_row_peak(int row, enum tx_dtype dtype);

/* The best row that this CPU, its OS and TEXTOK_ISA allow, or -1 with the reason in err (an unknown name, or one that can't run
 * here). */
int tx_choose_row(const char *isa, char *err, size_t err_size);

#endif
