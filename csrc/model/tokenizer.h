/* TexTok's tokenizer: image [S,S,3] -> N latent tokens of dimension d.
 *
 *   patch_embed   3ww -> D        at the design point: w = p = 8, 192 -> 768, 1,024 patches; else w = p + 2 patch_overlap
 *   side          12 blocks over 1,024 patches + N latents + 128 text tokens, the latents kept
 *   to_latent     D -> d (2d with kl: the mean comes first, and is the answer)
 *   codebook      where the config has one: each token becomes a mean of its run's codes, weighted by a softmax over them
 */
#ifndef TX_TOKENIZER_H
#define TX_TOKENIZER_H

#include "codebook.h"
#include "side.h"

struct tx_tokenizer {
    struct tx_side side;
    struct tx_patches cut;
    size_t d;
    struct tx_linear patch_embed;   /* [D, 3ww] */
    struct tx_linear to_latent;     /* [d or 2d, D] */
    struct tx_codebook codebook;
};

struct tx_tokenizer_buffers {
    struct tx_side_buffers side;
    struct tx_mat patches;          /* [images * P, 3ww] */
    struct tx_mat moments;          /* [images * N, to_latent.N] */
    struct tx_mat unit;             /* [images * N, d]: tokens as the codebook takes them; no rows without one */
};

enum tx_status tx_tokenizer_init(struct tx_tokenizer *t, const struct tx_textok_config *config, struct tx_tensors *tensors,
                                 struct tx_error *err);
void tx_tokenizer_plan(const struct tx_tokenizer *t, struct tx_tokenizer_buffers *buffers, struct tx_arena *arena,
                       size_t images, size_t text_tokens);

size_t tx_tokenizer_scratch(const struct tx_tokenizer *t, const struct tx_kernels *kernels, size_t text_tokens);

/* images: float32 in [-1,1], or uint8 where `bytes`; z [B,N,d]. */
enum tx_status tx_tokenizer_run(const struct tx_run *run, const struct tx_tokenizer *t,
                                const struct tx_tokenizer_buffers *buffers, const void *images, int bytes,
                                const struct tx_text *text, size_t B, float *z);

#endif
