/* SoftVQ's soft codebooks (arXiv 2412.10958): the N tokens of an image in `runs` equal runs, each with a codebook of its own.
 *
 *   tokens and codes to unit length                      where the config says l2_norm
 *   z = softmax over codes (token . code / tau) . codes   which is attention: tokens ask, codes are keys and values
 */
#ifndef TX_CODEBOOK_H
#define TX_CODEBOOK_H

#include "bind.h"
#include "config.h"
#include "run.h"

struct tx_codebook {
    size_t runs, size, tokens, d;   /* tokens of a run; runs 0: there is none */
    float tau;
    int l2_norm;
    float *codes;                   /* [runs, size, d], as they are stored */
    float *keys;                    /* [runs, size, d], as they are used: made at load */
};

void tx_codebook_init(struct tx_codebook *codebook, const struct tx_textok_config *config, struct tx_tensors *tensors);
/* Room for the keys, in the model's memory; and their values once the codes are there. */
void tx_codebook_plan(struct tx_codebook *codebook, struct tx_arena *arena);
void tx_codebook_fix(const struct tx_codebook *codebook);
size_t tx_codebook_scratch(const struct tx_codebook *codebook, const struct tx_kernels *kernels);

/* z [images, N, d] from the first d columns of tokens [images * N]; unit [images * N, d] is room to work in. */
void tx_codebook_run(const struct tx_run *run, const struct tx_codebook *codebook, float *z, struct tx_mat tokens,
                     struct tx_mat unit, size_t images);

#endif
