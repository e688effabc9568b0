/* attention_f32: out[Tq,Dh] = softmax(scale (q k^T + bias)) v of one head. */
#include "attention_wide.h"
#include "row.h"

size_t txk_attention_f32_scratch_avx512(size_t Tk, size_t Dh)
{
    return attention_scratch(Tk, Dh, 0);
}

void txk_attention_f32_avx512(const struct tx_attention_f32 *job)
{
    const struct head head = HEAD_OF(job);
    attend_head(&head, 0);
}
