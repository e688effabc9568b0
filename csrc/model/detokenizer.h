/* TexTok's detokenizer: N latent tokens of dimension d -> image [S,S,3].
 *
 *   from_latent   d -> D
 *   side          12 blocks over 1,024 learned patch tokens + N latents + 128 text tokens, the patches kept
 *   to_pixels     D -> 3ww, w = p + 2 patch_overlap, then tanh where the config says so
 *   pixel_conv    3 x 3 over the picture, zeros around it, where the config says so
 */
#ifndef TX_DETOKENIZER_H
#define TX_DETOKENIZER_H

#include "side.h"

struct tx_detokenizer {
    struct tx_side side;
    struct tx_patches cut;
    size_t d;
    int activation;                 /* enum tx_activation */
    struct tx_linear from_latent;   /* [D, d] */
    struct tx_linear to_pixels;     /* [3ww, D] */
    int convolves;
    float *conv_weight, *conv_bias; /* [3, 27] over (row, column, channel), [3] */
};

struct tx_detokenizer_buffers {
    struct tx_side_buffers side;
    struct tx_mat patches;          /* [images * P, 3ww] */
    float *before, *after;          /* [images,S,S,3] each, with a convolution only */
};

enum tx_status tx_detokenizer_init(struct tx_detokenizer *t, const struct tx_textok_config *config, struct tx_tensors *tensors,
                                   struct tx_error *err);
void tx_detokenizer_plan(const struct tx_detokenizer *t, struct tx_detokenizer_buffers *buffers, struct tx_arena *arena,
                         size_t images, size_t text_tokens);

/* z [B,N,d]; images float32 (as computed) or, where `bytes`, uint8 (clipped, rounded half up). */
enum tx_status tx_detokenizer_run(const struct tx_run *run, const struct tx_detokenizer *t,
                                  const struct tx_detokenizer_buffers *buffers, const float *z, const struct tx_text *text,
                                  size_t B, void *images, int bytes);

#endif
