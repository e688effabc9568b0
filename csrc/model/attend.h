/* Attention of several images or captions, head by head, on all threads: what blocks of every kind share. */
#ifndef TX_ATTEND_H
#define TX_ATTEND_H

#include "mat.h"
#include "run.h"

struct tx_attend {
    enum tx_dtype products;         /* of the model; q, k, v and out have the dtype that tx_attention_dtype makes of it */
    struct tx_mat out, q, k, v;     /* at row 0, head 0 */
    size_t H, Dh;
    float scale;                    /* of the scores; 0: 1/sqrt(Dh) */
    const struct tx_seq *queries;   /* rows of q */
    size_t first, count;            /* which rows of each image are queries; count 0: all */
    const struct tx_seq *keys;      /* rows of k and v */
    const size_t *keys_of;          /* [images]: whose keys an image reads; NULL: its own */
    const size_t *key_count;        /* [images]: only so many of its first rows are keys; NULL: all */
    const float *bias;              /* as kernels.h has it, at distance 0 of head 0; or NULL. Not with `first` */
    size_t ldbias;                  /* between heads; 0: one bias for all */
};

/* What attention reads and writes in a model whose products have this dtype. */
static inline enum tx_dtype tx_attention_dtype(enum tx_dtype products)
{
    return products == TX_F32 ? TX_F32 : TX_BF16;
}

void tx_attend_run(const struct tx_run *run, const struct tx_attend *attend);

/* Bytes of scratch that one worker needs for up to `keys` keys. */
size_t tx_attend_scratch(const struct tx_kernels *kernels, enum tx_dtype products, int biased, size_t keys, size_t Dh);

#endif
