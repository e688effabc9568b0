/* attention_bf16 on CPUs whose AVX-512 came before its instruction: in float32, from widened copies. */
#include "attention_wide.h"
#include "row.h"

size_t txk_attention_bf16_scratch_avx512(size_t Tk, size_t Dh)
{
    return attention_scratch(Tk, Dh, 1);
}

void txk_attention_bf16_avx512(const struct tx_attention_bf16 *job)
{
    const struct head head = HEAD_OF(job);
    attend_head(&head, 1);
}
