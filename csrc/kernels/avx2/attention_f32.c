/* attention_f32: out[Tq,Dh] = softmax(scale (q k^T + bias)) v of one head. attention.h has layout, method and bounds. */
#include "row.h"
#include "attention.h"

size_t txk_attention_f32_scratch_avx2(size_t Tk, size_t Dh)
{
    return attention_scratch(Tk, Dh);
}

void txk_attention_f32_avx2(const struct tx_attention_f32 *job)
{
    const struct txk_head head = TXK_HEAD_OF(job);
    attend(&head, 0);
}
