/* The C engine as the binding sees it.
 *
 *     struct tx_model *model;
 *     if (tx_model_open(&model, kernels, TX_MODEL_TEXTOK, TX_BOTH_SIDES, TX_F32, &config, &err) != TX_OK) ...
 * tensors are known, memory is not yet taken
 *     tx_model_load(model, get, arg, threads, &err)                                       packs every tensor
 *     tx_textok_encode(model, &call, images, 0, &text, B, z)                              any number of times, from any thread
 *     tx_model_close(model);
 *
 * A model is read-only once loaded. Every call takes its own workspace and gives it back. Functions return a status; text of
 * what went wrong is in the caller's tx_error.
 */
#ifndef TEXTOK_H
#define TEXTOK_H

#include "base/base.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "model/linear.h"
#include "model/run.h"
#include "model/sampler.h"
#include "model/side.h"
#include "model/text_encoder.h"

enum tx_model_kind { TX_MODEL_TEXTOK, TX_MODEL_DIT, TX_MODEL_TEXT };

/* The sides that a TexTok holds, one or both; the others have none. */
enum tx_sides { TX_NO_SIDE = 0, TX_TOKENIZER = 1, TX_DETOKENIZER = 2, TX_BOTH_SIDES = TX_TOKENIZER | TX_DETOKENIZER };

struct tx_model;

union tx_model_config {
    struct tx_textok_config textok;
    struct tx_dit_config dit;
    struct tx_text_config text;
};

/* How one call runs. */
struct tx_call {
    int threads;        /* at most; 0: the default */
    tx_tick *tick;      /* asked between tiles; or NULL */
    void *tick_arg;
    tx_tap *tap;        /* shown the intermediates; or NULL */
    tx_tap *record;     /* shown what each product takes, by its weight's name, in a float32 model; or NULL */
    void *tap_arg;      /* of both */
    struct tx_error *err;
};

/* Checks the config and lists the tensors, of a TexTok those of `sides`: nothing of another side is asked for, packed or
 * planned, and its calls must not be made. Other models' `sides` is not looked at. `dtype` is what the large products are
 * computed in: in int8 models the projections of text stay bfloat16, in int4 models T5's `wo`, too; small layers at the
 * edges are float32 in all. *model is NULL unless TX_OK. */
enum tx_status tx_model_open(struct tx_model **model, const struct tx_kernels *kernels, enum tx_model_kind kind,
                             enum tx_sides sides,
                             enum tx_dtype dtype, const union tx_model_config *config, struct tx_error *err);
void tx_model_close(struct tx_model *model);

enum tx_model_kind tx_model_kind(const struct tx_model *model);
enum tx_sides tx_model_sides(const struct tx_model *model);
const union tx_model_config *tx_model_config(const struct tx_model *model);
size_t tx_model_tensor_count(const struct tx_model *model);
/* Shape has room for TX_MAX_RANK sizes; returns the rank. */
int tx_model_tensor(const struct tx_model *model, size_t index, const char **name, size_t shape[3]);
/* What the tensor is kept in. */
enum tx_dtype tx_model_tensor_dtype(const struct tx_model *model, size_t index);
enum tx_dtype tx_model_dtype(const struct tx_model *model);
size_t tx_model_weight_bytes(const struct tx_model *model);

/* `get` gives each tensor's row-major values, which must stay until it is called again, or stops with anything but 0. They may
 * come in any dtype, and are converted to the one that the tensor is kept in. */
enum tx_status tx_model_load(struct tx_model *model, int (*get)(void *arg, size_t index, struct tx_values *values), void *arg,
                             int threads, struct tx_error *err);
/* A tensor's values, row-major, in the dtype it is kept in; scale [rows] is written for int8 and int4,
 * group_scale [rows, groups] for int4. float32 comes back as it came. */
void tx_model_export(const struct tx_model *model, size_t index, void *data, float *scale, uint8_t *group_scale);

/* Bytes of workspace that one call takes for B images with t text tokens each (a DiT: one guided run of `steps` steps), or
 * for B captions of t tokens, states and pooled. */
size_t tx_model_workspace(const struct tx_model *model, size_t B, size_t t, size_t steps, int threads);

/* images [B,S,S,3], uint8 where `bytes`, else float32 in [-1,1]; z [B,N,d]. Lengths and labels were checked by the caller. */
enum tx_status tx_textok_encode(const struct tx_model *model, const struct tx_call *call, const void *images, int bytes,
                                const struct tx_text *text, size_t B, float *z);
enum tx_status tx_textok_decode(const struct tx_model *model, const struct tx_call *call, const float *z,
                                const struct tx_text *text, size_t B, void *images, int bytes);
/* x [B,T,C] or [B,C,S,S], t [B], out the same with C or 2C channels; text NULL: the null condition for every image. */
enum tx_status tx_dit_denoise_call(const struct tx_model *model, const struct tx_call *call, const float *x, const float *t,
                                   const struct tx_text *text, size_t B, float *out);
/* Where a caption has fewer keys than tokens, the last ones are padding. Numbers of tokens and places were checked by the
 * caller. */
enum tx_status tx_text_encode(const struct tx_model *model, const struct tx_call *call, const struct tx_captions *captions);
enum tx_status tx_dit_sample(const struct tx_model *model, const struct tx_call *call, const struct tx_sample *sample);

#endif
