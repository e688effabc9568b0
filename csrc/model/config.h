/* What a model is, as plain numbers. Defaults and friendly errors live in textok/config.py, which hands over every key; here
 * stands what the C side needs in order to stay inside its arrays whatever it is given. */
#ifndef TX_CONFIG_H
#define TX_CONFIG_H

#include "../base/base.h"

enum tx_text_injection { TX_IN_CONTEXT, TX_CROSS_ATTENTION };
enum tx_text_source { TX_TEXT_EMBEDDING, TX_TEXT_CLASS };
enum tx_text_condition { TX_TEXT_BOTH, TX_TEXT_TOKENIZER, TX_TEXT_DETOKENIZER, TX_TEXT_NONE };
enum tx_gelu { TX_GELU_ERF, TX_GELU_TANH };
enum tx_output { TX_OUTPUT_NONE, TX_OUTPUT_TANH };
enum tx_text_family { TX_T5, TX_BERT, TX_CLIP };
enum tx_text_activation { TX_TEXT_RELU, TX_TEXT_GELU_ERF, TX_TEXT_GELU_TANH, TX_TEXT_QUICK_GELU, TX_TEXT_SILU };
enum tx_dit_condition { TX_CONDITION_CLASS, TX_CONDITION_TEXT };

struct tx_side_config {
    size_t hidden_size, depth, num_heads;
    double mlp_ratio;
};

/* The latents' soft codebooks, one for each of `runs` equal runs of tokens; runs 0: none. */
struct tx_codebook_config {
    size_t runs, size;
    double tau;
    size_t l2_norm; /* 0 or 1 */
};

struct tx_textok_config {
    size_t image_size, patch_size, num_latent_tokens, latent_dim, text_dim, num_text_tokens, num_classes, num_registers;
    size_t detokenizer_registers; /* 0 or 1: whether the detokenizer has num_registers too, or none */
    size_t patch_overlap; /* pixels of its neighbours' that a patch's window has on every side */
    size_t text_condition, text_injection, text_source, gelu, output_activation; /* the enums above */
    size_t qkv_bias, kl, input_norm, output_conv;                                /* 0 or 1 */
    size_t rope;                                                                 /* 1: rotary positions on patch rows */
    double norm_eps;
    struct tx_codebook_config codebook;
    struct tx_side_config tokenizer, detokenizer;
};

struct tx_dit_config {
    size_t num_tokens, in_channels, num_classes, text_dim, num_text_tokens, time_freq_dim, time_freq_shift;
    size_t patch_size, input_size; /* input_size 0: a sample is tokens [T,C]; else a latent image [C,S,S] cut into patches */
    size_t condition;      /* enum tx_dit_condition */
    size_t learn_sigma;    /* 0 or 1 */
    size_t guidance_channels; /* the first so many are guided; 0: all */
    double norm_eps, mlp_norm_eps; /* mlp_norm_eps 0: as norm_eps */
    struct tx_side_config body;
};

struct tx_text_config {
    size_t family, activation;      /* the enums above; the family says where norms stand and which, and what has biases */
    size_t gated;                   /* 0 or 1 */
    size_t hidden_size, depth, num_heads, head_dim, mlp_size, vocab_size;
    size_t max_positions;           /* 0: relative ones */
    size_t token_types;             /* BERT; 0 elsewhere */
    size_t relative_buckets, relative_distance, relative_per_block; /* T5; 0 elsewhere */
    size_t projection_dim;          /* CLIP's pooled vector; 0: as it is */
    double norm_eps;
};

/* How a config crosses from Python: one line a field. */
enum tx_field_kind {
    TX_FIELD_SIZE,
    TX_FIELD_REAL,
    TX_FIELD_FLAG,
    TX_FIELD_CHOICE,
    TX_FIELD_PRESENT,   /* 1 where the value is not None */
    TX_FIELD_SIDE,
    TX_FIELD_CODEBOOK,  /* or None, which leaves it zeros */
};

struct tx_field {
    const char *name;
    enum tx_field_kind kind;
    size_t offset;               /* in the struct */
    const char *const *choices;  /* TX_FIELD_CHOICE: names by enum value, NULL at the end */
};

/* Tables end with a NULL name. tx_side_fields are the keys of a TX_FIELD_SIDE's dict, tx_codebook_fields of a
 * TX_FIELD_CODEBOOK's. */
extern const struct tx_field tx_textok_fields[], tx_dit_fields[], tx_text_fields[], tx_side_fields[], tx_codebook_fields[];

enum tx_status tx_textok_config_check(const struct tx_textok_config *config, struct tx_error *err);
enum tx_status tx_dit_config_check(const struct tx_dit_config *config, struct tx_error *err);
enum tx_status tx_text_config_check(const struct tx_text_config *config, struct tx_error *err);

/* The ratio need not have an exact binary form (8/3, 0.29), the width is whole all the same. */
static inline size_t tx_mlp_width(const struct tx_side_config *side)
{
    return (size_t)((double)side->hidden_size * side->mlp_ratio + 0.5);
}

/* Numbers of a patch's window: pixels times channels. */
static inline size_t tx_window(const struct tx_textok_config *c)
{
    return 3 * (c->patch_size + 2 * c->patch_overlap) * (c->patch_size + 2 * c->patch_overlap);
}

static inline size_t tx_num_patches(const struct tx_textok_config *c)
{
    return (c->image_size / c->patch_size) * (c->image_size / c->patch_size);
}

#endif
