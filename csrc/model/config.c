#include "config.h"

#include <math.h>

static const char *const injections[] = {"in_context", "cross_attention", NULL};
static const char *const sources[] = {"embedding", "class", NULL};
static const char *const text_conditions[] = {"both", "tokenizer", "detokenizer", "none", NULL};
static const char *const gelus[] = {"erf", "tanh", NULL};
static const char *const outputs[] = {"none", "tanh", NULL};
static const char *const families[] = {"t5", "bert", "clip", NULL};
static const char *const activations[] = {"relu", "gelu_erf", "gelu_tanh", "quick_gelu", "silu", NULL};
static const char *const dit_conditions[] = {"class", "text", NULL};

#define FIELD(type, name, kind) {#name, kind, offsetof(struct type, name), NULL}
#define CHOICE(type, name, names) {#name, TX_FIELD_CHOICE, offsetof(struct type, name), names}

const struct tx_field tx_side_fields[] = {
    FIELD(tx_side_config, hidden_size, TX_FIELD_SIZE),
    FIELD(tx_side_config, depth, TX_FIELD_SIZE),
    FIELD(tx_side_config, num_heads, TX_FIELD_SIZE),
    FIELD(tx_side_config, mlp_ratio, TX_FIELD_REAL),
    {0},
};

const struct tx_field tx_codebook_fields[] = {
    FIELD(tx_codebook_config, runs, TX_FIELD_SIZE),
    FIELD(tx_codebook_config, size, TX_FIELD_SIZE),
    FIELD(tx_codebook_config, tau, TX_FIELD_REAL),
    FIELD(tx_codebook_config, l2_norm, TX_FIELD_FLAG),
    {0},
};

const struct tx_field tx_textok_fields[] = {
    FIELD(tx_textok_config, image_size, TX_FIELD_SIZE),
    FIELD(tx_textok_config, patch_size, TX_FIELD_SIZE),
    FIELD(tx_textok_config, num_latent_tokens, TX_FIELD_SIZE),
    FIELD(tx_textok_config, latent_dim, TX_FIELD_SIZE),
    FIELD(tx_textok_config, text_dim, TX_FIELD_SIZE),
    FIELD(tx_textok_config, num_text_tokens, TX_FIELD_SIZE),
    FIELD(tx_textok_config, num_classes, TX_FIELD_SIZE),
    CHOICE(tx_textok_config, text_condition, text_conditions),
    CHOICE(tx_textok_config, text_injection, injections),
    CHOICE(tx_textok_config, text_source, sources),
    CHOICE(tx_textok_config, gelu, gelus),
    CHOICE(tx_textok_config, output_activation, outputs),
    FIELD(tx_textok_config, qkv_bias, TX_FIELD_FLAG),
    FIELD(tx_textok_config, kl, TX_FIELD_FLAG),
    FIELD(tx_textok_config, num_registers, TX_FIELD_SIZE),
    FIELD(tx_textok_config, detokenizer_registers, TX_FIELD_FLAG),
    FIELD(tx_textok_config, input_norm, TX_FIELD_FLAG),
    FIELD(tx_textok_config, output_conv, TX_FIELD_FLAG),
    FIELD(tx_textok_config, rope, TX_FIELD_PRESENT),
    FIELD(tx_textok_config, codebook, TX_FIELD_CODEBOOK),
    FIELD(tx_textok_config, patch_overlap, TX_FIELD_SIZE),
    FIELD(tx_textok_config, norm_eps, TX_FIELD_REAL),
    FIELD(tx_textok_config, tokenizer, TX_FIELD_SIDE),
    FIELD(tx_textok_config, detokenizer, TX_FIELD_SIDE),
    {0},
};

#define BODY(name, kind) {#name, kind, offsetof(struct tx_dit_config, body) + offsetof(struct tx_side_config, name), NULL}

const struct tx_field tx_dit_fields[] = {
    FIELD(tx_dit_config, num_tokens, TX_FIELD_SIZE),
    FIELD(tx_dit_config, in_channels, TX_FIELD_SIZE),
    FIELD(tx_dit_config, num_classes, TX_FIELD_SIZE),
    FIELD(tx_dit_config, text_dim, TX_FIELD_SIZE),
    FIELD(tx_dit_config, num_text_tokens, TX_FIELD_SIZE),
    FIELD(tx_dit_config, time_freq_dim, TX_FIELD_SIZE),
    FIELD(tx_dit_config, time_freq_shift, TX_FIELD_SIZE),
    FIELD(tx_dit_config, patch_size, TX_FIELD_SIZE),
    FIELD(tx_dit_config, input_size, TX_FIELD_SIZE),
    CHOICE(tx_dit_config, condition, dit_conditions),
    FIELD(tx_dit_config, learn_sigma, TX_FIELD_FLAG),
    FIELD(tx_dit_config, guidance_channels, TX_FIELD_SIZE),
    FIELD(tx_dit_config, norm_eps, TX_FIELD_REAL),
    FIELD(tx_dit_config, mlp_norm_eps, TX_FIELD_REAL),
    BODY(hidden_size, TX_FIELD_SIZE),
    BODY(depth, TX_FIELD_SIZE),
    BODY(num_heads, TX_FIELD_SIZE),
    BODY(mlp_ratio, TX_FIELD_REAL),
    {0},
};

const struct tx_field tx_text_fields[] = {
    CHOICE(tx_text_config, family, families),
    CHOICE(tx_text_config, activation, activations),
    FIELD(tx_text_config, gated, TX_FIELD_FLAG),
    FIELD(tx_text_config, hidden_size, TX_FIELD_SIZE),
    FIELD(tx_text_config, depth, TX_FIELD_SIZE),
    FIELD(tx_text_config, num_heads, TX_FIELD_SIZE),
    FIELD(tx_text_config, head_dim, TX_FIELD_SIZE),
    FIELD(tx_text_config, mlp_size, TX_FIELD_SIZE),
    FIELD(tx_text_config, vocab_size, TX_FIELD_SIZE),
    FIELD(tx_text_config, max_positions, TX_FIELD_SIZE),
    FIELD(tx_text_config, token_types, TX_FIELD_SIZE),
    FIELD(tx_text_config, relative_buckets, TX_FIELD_SIZE),
    FIELD(tx_text_config, relative_distance, TX_FIELD_SIZE),
    FIELD(tx_text_config, relative_per_block, TX_FIELD_FLAG),
    FIELD(tx_text_config, projection_dim, TX_FIELD_SIZE),
    FIELD(tx_text_config, norm_eps, TX_FIELD_REAL),
    {0},
};

/* Far above any model there is, far below where a product of two or three sizes could overflow. */
enum { MOST_WIDTH = 1 << 16, MOST_TOKENS = 1 << 20, MOST_DEPTH = 1 << 10, MOST_CLASSES = 1 << 24 };

static enum tx_status within(const char *name, size_t value, size_t least, size_t most, struct tx_error *err)
{
    if (value >= least && value <= most)
        return TX_OK;
    return tx_fail(err, TX_EINVAL, "config: %s is %zu, expected %zu to %zu", name, value, least, most);
}

#define WITHIN(name, value, least, most)                                    \
    do {                                                                    \
        if (within(name, value, least, most, err) != TX_OK)                 \
            return err->status;                                             \
    } while (0)

static enum tx_status check_eps(const char *name, double eps, struct tx_error *err)
{
    if (eps > 0 && eps < 1)
        return TX_OK;
    return tx_fail(err, TX_EINVAL, "config: %s is %g, expected a number between 0 and 1", name, eps);
}

static enum tx_status check_side(const char *name, const struct tx_side_config *side, struct tx_error *err)
{
    WITHIN("hidden_size", side->hidden_size, 1, MOST_WIDTH);
    WITHIN("depth", side->depth, 1, MOST_DEPTH);
    WITHIN("num_heads", side->num_heads, 1, side->hidden_size);
    if (side->hidden_size % side->num_heads)
        return tx_fail(err, TX_EINVAL, "config: %s: hidden_size %zu is not a multiple of num_heads %zu", name,
                       side->hidden_size, side->num_heads);
    if (!(side->mlp_ratio > 0 && side->mlp_ratio <= 64) || tx_mlp_width(side) < 1)
        return tx_fail(err, TX_EINVAL, "config: %s: mlp_ratio is %g, expected more than 0 and at most 64", name,
                       side->mlp_ratio);
    return TX_OK;
}

enum tx_status tx_textok_config_check(const struct tx_textok_config *c, struct tx_error *err)
{
    WITHIN("image_size", c->image_size, 1, 1 << 14);
    WITHIN("patch_size", c->patch_size, 1, tx_min(c->image_size, 128));
    if (c->image_size % c->patch_size)
        return tx_fail(err, TX_EINVAL, "config: image_size %zu is not a multiple of patch_size %zu", c->image_size,
                       c->patch_size);
    WITHIN("patch_overlap", c->patch_overlap, 0, c->patch_size / 2);
    WITHIN("number of patches", tx_num_patches(c), 1, MOST_TOKENS);
    WITHIN("num_latent_tokens", c->num_latent_tokens, 1, MOST_TOKENS);
    WITHIN("latent_dim", c->latent_dim, 1, MOST_WIDTH);
    WITHIN("num_registers", c->num_registers, 0, MOST_TOKENS);
    if (c->text_condition != TX_TEXT_NONE) {
        if (c->text_source == TX_TEXT_CLASS)
            WITHIN("num_classes", c->num_classes, 1, MOST_CLASSES);
        else
            WITHIN("text_dim", c->text_dim, 1, MOST_WIDTH);
        WITHIN("num_text_tokens", c->num_text_tokens, 1, MOST_TOKENS);
    }
    if (c->codebook.runs) {
        WITHIN("codebook.runs", c->codebook.runs, 1, c->num_latent_tokens);
        WITHIN("codebook.size", c->codebook.size, 1, MOST_TOKENS);
        if (c->num_latent_tokens % c->codebook.runs)
            return tx_fail(err, TX_EINVAL, "config: num_latent_tokens %zu is not a multiple of codebook.runs %zu",
                           c->num_latent_tokens, c->codebook.runs);
        if (!(c->codebook.tau > 0 && c->codebook.tau <= 1e6))
            return tx_fail(err, TX_EINVAL, "config: codebook.tau is %g, expected more than 0", c->codebook.tau);
    }
    if (check_eps("norm_eps", c->norm_eps, err) != TX_OK || check_side("tokenizer", &c->tokenizer, err) != TX_OK ||
        check_side("detokenizer", &c->detokenizer, err) != TX_OK)
        return err->status;
    const struct tx_side_config *const sides[] = {&c->tokenizer, &c->detokenizer};
    for (size_t i = 0; i < 2; i++)
        if (c->rope && sides[i]->hidden_size / sides[i]->num_heads % 2)
            return tx_fail(err, TX_EINVAL, "config: rope with heads of %zu columns, expected an even number",
                           sides[i]->hidden_size / sides[i]->num_heads);
    return TX_OK;
}

enum tx_status tx_dit_config_check(const struct tx_dit_config *c, struct tx_error *err)
{
    WITHIN("num_tokens", c->num_tokens, 1, MOST_TOKENS);
    WITHIN("in_channels", c->in_channels, 1, MOST_WIDTH);
    WITHIN("guidance_channels", c->guidance_channels, 0, c->in_channels);
    WITHIN("input_size", c->input_size, 0, 1 << 14);
    WITHIN("patch_size", c->patch_size, 1, c->input_size ? tx_min(c->input_size, 128) : 1);
    if (c->input_size &&
        (c->input_size % c->patch_size || c->num_tokens != (c->input_size / c->patch_size) * (c->input_size / c->patch_size)))
        return tx_fail(err, TX_EINVAL, "config: num_tokens is %zu, expected the patches of input_size %zu and patch_size %zu",
                       c->num_tokens, c->input_size, c->patch_size);
    WITHIN("time_freq_shift", c->time_freq_shift, 0, 1);
    WITHIN("time_freq_dim", c->time_freq_dim, 2 + 2 * c->time_freq_shift, MOST_WIDTH);
    if (c->time_freq_dim % 2)
        return tx_fail(err, TX_EINVAL, "config: time_freq_dim is %zu, expected an even number", c->time_freq_dim);
    if (c->condition == TX_CONDITION_TEXT) {
        WITHIN("text_dim", c->text_dim, 1, MOST_WIDTH);
        WITHIN("num_text_tokens", c->num_text_tokens, 1, MOST_TOKENS);
    } else {
        WITHIN("num_classes", c->num_classes, 1, MOST_CLASSES);
    }
    if (check_eps("norm_eps", c->norm_eps, err) != TX_OK ||
        (c->mlp_norm_eps != 0 && check_eps("mlp_norm_eps", c->mlp_norm_eps, err) != TX_OK))
        return err->status;
    return check_side("dit", &c->body, err);
}

enum tx_status tx_text_config_check(const struct tx_text_config *c, struct tx_error *err)
{
    const int t5 = c->family == TX_T5, bert = c->family == TX_BERT;
    WITHIN("hidden_size", c->hidden_size, 1, MOST_WIDTH);
    WITHIN("depth", c->depth, 1, MOST_DEPTH);
    WITHIN("num_heads", c->num_heads, 1, MOST_WIDTH);
    WITHIN("head_dim", c->head_dim, 1, MOST_WIDTH);
    WITHIN("num_heads x head_dim", c->num_heads * c->head_dim, 1, MOST_WIDTH);
    WITHIN("mlp_size", c->mlp_size, 1, 4 * MOST_WIDTH);
    WITHIN("vocab_size", c->vocab_size, 1, MOST_CLASSES);
    WITHIN("max_positions", c->max_positions, t5 ? 0 : 1, t5 ? 0 : MOST_TOKENS);
    WITHIN("token_types", c->token_types, bert ? 1 : 0, bert ? MOST_WIDTH : 0);
    WITHIN("relative_buckets", c->relative_buckets, t5 ? 4 : 0, t5 ? MOST_WIDTH : 0);
    WITHIN("relative_distance", c->relative_distance, t5 ? c->relative_buckets / 4 + 1 : 0, t5 ? MOST_TOKENS : 0);
    WITHIN("projection_dim", c->projection_dim, 0, c->family == TX_CLIP ? MOST_WIDTH : 0);
    if (c->relative_buckets % 4)
        return tx_fail(err, TX_EINVAL, "config: relative_buckets is %zu, expected a multiple of 4", c->relative_buckets);
    return check_eps("norm_eps", c->norm_eps, err);
}
