/* One head's attention, of float32 or bfloat16: for rows that compute both in float32, the element type a constant of each. */
#ifndef TXK_ATTENTION_HEAD_H
#define TXK_ATTENTION_HEAD_H

#include "kernels.h"

/* struct tx_attention_f32 or tx_attention_bf16, whose fields differ in type only. */
struct txk_head {
    void *out;
    const void *q, *k, *v;
    size_t ldo, ldq, ldk, ldv, Tq, Tk, Dh;
    float scale;
    const float *bias;
    void *scratch;
};

#define TXK_HEAD_OF(job)                                                                                              \
    {                                                                                                                 \
        .out = (job)->out, .q = (job)->q, .k = (job)->k, .v = (job)->v, .ldo = (job)->ldo, .ldq = (job)->ldq,         \
        .ldk = (job)->ldk, .ldv = (job)->ldv, .Tq = (job)->Tq, .Tk = (job)->Tk, .Dh = (job)->Dh, .scale = (job)->scale, \
        .bias = (job)->bias, .scratch = (job)->scratch,                                                               \
    }

#endif
