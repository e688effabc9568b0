/* TexTok's tokenizer: image [S,S,3] -> N latent tokens of dimension d.
 *
 *   patch_embed   3pp -> D        at the design point: 192 -> 768, 1,024 patches
 *   side          12 blocks over 1,024 patches + N latents + 128 text tokens, the latents kept
 *   to_latent     D -> d (2d with kl: the mean comes first, and is the answer)
 */
#ifndef TX_TOKENIZER_H
#define TX_TOKENIZER_H

#include "side.h"

struct tx_tokenizer {
    struct tx_side side;
    size_t S, p, d;
    struct tx_linear patch_embed;   /* [D, 3pp] */
    struct tx_linear to_latent;     /* [d or 2d, D] */
};

struct tx_tokenizer_buffers {
    struct tx_side_buffers side;
    struct tx_mat patches;          /* [images * P, 3pp] */
    struct tx_mat moments;          /* [images * N, to_latent.N] */
};

enum tx_status tx_tokenizer_init(struct tx_tokenizer *t, const struct tx_textok_config *config, struct tx_tensors *tensors,
                                 struct tx_error *err);
void tx_tokenizer_plan(const struct tx_tokenizer *t, struct tx_tokenizer_buffers *buffers, struct tx_arena *arena,
                       size_t images, size_t text_tokens);

/* images: float32 in [-1,1], or uint8 where `bytes`; z [B,N,d]. */
enum tx_status tx_tokenizer_run(const struct tx_run *run, const struct tx_tokenizer *t,
                                const struct tx_tokenizer_buffers *buffers, const void *images, int bytes,
                                const struct tx_text *text, size_t B, float *z);

#endif
