/* attention_bf16 on tiles: attention_bf16.h with its two products by tdpbf16ps. Everything in scratch is padded to whole tiles. */
#define SCORES scores_amx
#define VALUES values_amx
#include "amx.h"
#include "attention_bf16.h"

static void SCORES(const struct attention *a, size_t t, size_t i, char *scores)
{
    const char *k = a->keys + (t + 16 * i) * a->Dp * 2, *q = a->q;
    char *to = scores + 16 * i * LINE;
    amx_zero(0);
    amx_zero(1);
    for (size_t step = 0; step < a->steps; step++, k += 64, q += 16 * LINE) {
        amx_load(4, k, a->Dp * 2);
        amx_load(6, q, LINE);
        amx_dot_bf16(0, 4, 6);
        if (a->wide) {
            amx_load(7, q + 64, LINE);
            amx_dot_bf16(1, 4, 7);
        }
    }
    amx_store(0, to, LINE);
    if (a->wide)
        amx_store(1, to + 64, LINE);
}

static void VALUES(const struct attention *a, size_t t, size_t i, const char *pairs)
{
    const char *v = a->values + (t * a->Dm + 16 * i * 32) * 2;
    char *out = a->out + 16 * i * LINE;
    amx_load(2, out, LINE);
    if (a->wide)
        amx_load(3, out + 64, LINE);
    for (size_t step = 0; step < KEYS / 32; step++, v += 32 * a->Dm * 2, pairs += 16 * LINE) {
        amx_load(5, v, 64);
        amx_load(6, pairs, LINE);
        amx_dot_bf16(2, 5, 6);
        if (a->wide) {
            amx_load(7, pairs + 64, LINE);
            amx_dot_bf16(3, 5, 7);
        }
    }
    amx_store(2, out, LINE);
    if (a->wide)
        amx_store(3, out + 64, LINE);
}

size_t txk_attention_bf16_scratch_amx(size_t Tk, size_t Dh)
{
    return attention_scratch(Tk, Dh);
}

void txk_attention_bf16_amx(const struct tx_attention_bf16 *job)
{
    static const struct amx_shape whole = AMX_WHOLE;
    amx_config(&whole);
    attention(job);
    amx_done();
}
