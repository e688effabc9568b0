/* attention_bf16 with vdpbf16ps: attention_bf16.h, whose layouts suit a vector of 16 or 32 queries against one broadcast pair as well as
 * they do tiles. Eight rows at a time: 16 sums, one line of the other operand, one broadcast. */
#define SCORES scores_avx512bf16
#define VALUES values_avx512bf16
#include "attention_bf16.h"

enum { ROWS = 8 };

/* sums[ROWS, 32] += (rows of pairs, `stride` bytes apart) x (lines of 32 pairs), n pairs long. */
TXK_INLINE void product(char *sums, const char *rows, size_t stride, const char *lines, size_t n, const int more)
{
    __m512 acc[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        for (int g = 0; g < 2; g++)
            acc[r][g] = more ? _mm512_load_ps(sums + r * LINE + 64 * g) : _mm512_setzero_ps();
    for (size_t i = 0; i < n; i++, lines += LINE) {
        const __m512bh left = (__m512bh)_mm512_load_si512(lines), right = (__m512bh)_mm512_load_si512(lines + 64);
#pragma GCC unroll 8
        for (size_t r = 0; r < ROWS; r++) {
            int32_t pair;
            memcpy(&pair, rows + r * stride + 4 * i, 4);
            const __m512bh row = (__m512bh)_mm512_set1_epi32(pair);
            acc[r][0] = _mm512_dpbf16_ps(acc[r][0], row, left);
            acc[r][1] = _mm512_dpbf16_ps(acc[r][1], row, right);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        for (int g = 0; g < 2; g++)
            _mm512_store_ps(sums + r * LINE + 64 * g, acc[r][g]);
}

static void SCORES(const struct attention *a, size_t t, size_t i, char *scores)
{
    for (size_t r = 16 * i; r < 16 * i + 16; r += ROWS)
        product(scores + r * LINE, a->keys + (t + r) * a->Dp * 2, a->Dp * 2, a->q, a->Dp / 2, 0);
}

static void VALUES(const struct attention *a, size_t t, size_t i, const char *pairs)
{
    for (size_t r = 16 * i; r < 16 * i + 16; r += ROWS)
        for (size_t step = 0; step < KEYS / 32; step++)
            product(a->out + r * LINE, a->values + ((t + 32 * step) * a->Dm + r * 32) * 2, 64, pairs + step * 16 * LINE, 16, 1);
}

size_t txk_attention_bf16_scratch_avx512bf16(size_t Tk, size_t Dh)
{
    return attention_scratch(Tk, Dh);
}

void txk_attention_bf16_avx512bf16(const struct tx_attention_bf16 *job)
{
    attention(job);
}
