/* Products with weights of 4 bits, on every row that has products in int8: W takes half the memory, and is what it would be in
 * int8 once it is in the cache.
 *
 * A weight is d s q: q in -8..7, s in 0..16 of each GROUP of 32 along K, d a float32 of each row of W. So s q is a byte, sums
 * are exact in int32, and the result has the bits of gemm_int8 on the bytes s q with w_scale d.
 *
 * Order: runs of panels > panels. The panels of a run become bytes in scratch, in the layout of the row's gemm_int8, which then
 * multiplies them as it does any. While it does, it fetches the next run's nibbles, as what is beside it (struct tx_fetch).
 *
 * A packed panel of nr columns, side k of a column side by side (nr and side are the row's, as in its int8 layout):
 *
 *     scales    [Kp/32][nr]  s, filled up to a cache line
 *     nibbles   [Kp/side] lines of nr side / 2 bytes: q + 8 of a line's first half in the low four bits, of its second half in
 *               the high ones
 *
 * Includers give an expander: a panel's bytes from its nibbles. In 16 bits one product by s does two bytes: (q + 8) s is at
 * most 240, so nothing carries; then 8 s is taken off, or 128 - 8 s added where the row's bytes are w + 128. */
#ifndef TXK_GEMM_INT4_H
#define TXK_GEMM_INT4_H

#include "kernels.h"

enum { TXK_INT4_RUN = 160 << 10 /* bytes of a run, in int8: a part of L2 */ };

struct txk_int4 {
    size_t nr, side;
    void (*expand)(char *to, const uint8_t *scales, const uint8_t *nibbles, size_t Kp);
    void (*gemm_int8)(const struct tx_gemm_narrow *job);
};

static inline size_t txk_int4_scales(size_t nr, size_t K)
{
    return (tx_k_padded(K) / TX_INT4_GROUP * nr + 63) / 64 * 64;
}

static inline size_t txk_int4_panel(size_t nr, size_t K)
{
    return txk_int4_scales(nr, K) + (tx_k_padded(K) * nr / 2 + 63) / 64 * 64;
}

static inline size_t txk_int4_packed(const struct txk_int4 *t, size_t N, size_t K)
{
    return (N + t->nr - 1) / t->nr * txk_int4_panel(t->nr, K);
}

/* Where q of column n of a panel and its k lies: the byte, and how far to the left in it. */
static inline size_t txk_int4_at(const struct txk_int4 *t, size_t n, size_t k, int *shift)
{
    const size_t half = t->nr * t->side / 2, at = n * t->side + k % t->side;
    *shift = at < half ? 0 : 4;
    return k / t->side * half + at % half;
}

static inline void txk_int4_pack(const struct txk_int4 *t, uint8_t *dst, const uint8_t *q, const uint8_t *s, size_t K,
                                 size_t n0, size_t n1)
{
    const size_t Kp = tx_k_padded(K), groups = tx_int4_groups(K);
    for (size_t p = n0; p < n1; p += t->nr) {
        uint8_t *scales = dst + p / t->nr * txk_int4_panel(t->nr, K), *nibbles = scales + txk_int4_scales(t->nr, K);
        memset(scales, 0, txk_int4_panel(t->nr, K));
        for (size_t j = 0; j < t->nr; j++) {
            const size_t n = p + j;
            for (size_t g = 0; n < n1 && g < groups; g++)
                scales[g * t->nr + j] = s[n * groups + g];
            for (size_t k = 0; k < Kp; k++) {
                int shift;
                const size_t at = txk_int4_at(t, j, k, &shift);
                nibbles[at] |= (uint8_t)(((n < n1 && k < K ? tx_int4_at(q + n * tx_int4_row(K), k) : 0) + 8) << shift);
            }
        }
    }
}

static inline void txk_int4_unpack(const struct txk_int4 *t, uint8_t *q, uint8_t *s, const uint8_t *packed, size_t N, size_t K)
{
    const size_t groups = tx_int4_groups(K);
    for (size_t n = 0; n < N; n++) {
        const uint8_t *scales = packed + n / t->nr * txk_int4_panel(t->nr, K);
        const uint8_t *nibbles = scales + txk_int4_scales(t->nr, K);
        for (size_t g = 0; g < groups; g++)
            s[n * groups + g] = scales[g * t->nr + n % t->nr];
        memset(q + n * tx_int4_row(K), 0x80, tx_int4_row(K)); /* an odd row's last half is a zero */
        for (size_t k = 0; k < K; k++) {
            int shift;
            const size_t at = txk_int4_at(t, n % t->nr, k, &shift);
            uint8_t *byte = q + n * tx_int4_row(K) + k / 2;
            *byte = (uint8_t)((k % 2 ? *byte & 15 : 0x80) | (nibbles[at] >> shift & 15) << 4 * (k % 2));
        }
    }
}

static inline size_t txk_int4_run(size_t nr, size_t K)
{
    const size_t panels = TXK_INT4_RUN / (nr * tx_k_padded(K));
    return panels ? panels : 1;
}

static inline size_t txk_int4_scratch(const struct txk_int4 *t, size_t K)
{
    return txk_int4_run(t->nr, K) * t->nr * tx_k_padded(K);
}

static inline void txk_int4_gemm(const struct txk_int4 *t, const struct tx_gemm_narrow *job)
{
    const size_t nr = t->nr, Kp = tx_k_padded(job->K), panel = txk_int4_panel(nr, job->K), run = txk_int4_run(nr, job->K) * nr;
    for (size_t n = job->n0; n < job->n1; n += run) {
        const size_t columns = job->n1 - n < run ? job->n1 - n : run, left = job->n1 - n - columns;
        const uint8_t *packed = (const uint8_t *)job->w + n / nr * panel;
        for (size_t i = 0; i * nr < columns; i++)
            t->expand((char *)job->scratch + i * nr * Kp, packed + i * panel,
                      packed + i * panel + txk_int4_scales(nr, job->K), Kp);
        struct tx_gemm_narrow part = *job;
        part.out = (char *)job->out + n * (job->out_bf16 ? sizeof(uint16_t) : sizeof(float));
        part.w = job->scratch, part.w_scale = job->w_scale + n;
        part.N = columns, part.n0 = 0, part.n1 = columns;
        part.epilogue.bias = job->epilogue.bias ? job->epilogue.bias + n : NULL;
        part.epilogue.residual = job->epilogue.residual ? job->epilogue.residual + n : NULL;
        part.epilogue.gate = job->epilogue.gate ? job->epilogue.gate + n : NULL;
        if (left)
            part.fetch = (struct tx_fetch){.beside = packed + run / nr * panel,
                                           .beside_bytes = ((left < run ? left : run) + nr - 1) / nr * panel};
        t->gemm_int8(&part);
    }
}

/* All of a row's slots but gemm_int4 itself, by its `struct txk_int4`. */
#define TXK_INT4_PACKING(row, layout)                                                                                         \
    size_t txk_gemm_int4_packed_##row(size_t N, size_t K) { return txk_int4_packed(&layout, N, K); }                          \
    void txk_gemm_int4_pack_##row(uint8_t *dst, const uint8_t *q, const uint8_t *s, size_t N, size_t K, size_t n0, size_t n1) \
    {                                                                                                                         \
        (void)N;                                                                                                              \
        txk_int4_pack(&layout, dst, q, s, K, n0, n1);                                                                         \
    }                                                                                                                         \
    void txk_gemm_int4_unpack_##row(uint8_t *q, uint8_t *s, const uint8_t *packed, size_t N, size_t K)                        \
    {                                                                                                                         \
        txk_int4_unpack(&layout, q, s, packed, N, K);                                                                         \
    }                                                                                                                         \
    size_t txk_gemm_int4_scratch_##row(size_t K) { return txk_int4_scratch(&layout, K); }

/* Their declarations. */
#define TXK_INT4_DECLARE(row)                                                                                                 \
    size_t txk_gemm_int4_packed_##row(size_t N, size_t K);                                                                    \
    void txk_gemm_int4_pack_##row(uint8_t *dst, const uint8_t *q, const uint8_t *s, size_t N, size_t K, size_t n0, size_t n1); \
    void txk_gemm_int4_unpack_##row(uint8_t *q, uint8_t *s, const uint8_t *packed, size_t N, size_t K);                        \
    size_t txk_gemm_int4_scratch_##row(size_t K);                                                                             \
    void txk_gemm_int4_##row(const struct tx_gemm_narrow *job)

#define TXK_INT4_FILL(row, width)                                                                                             \
    .gemm_int4_nr = width, .gemm_int4_packed = txk_gemm_int4_packed_##row, .gemm_int4_pack = txk_gemm_int4_pack_##row,        \
    .gemm_int4_unpack = txk_gemm_int4_unpack_##row, .gemm_int4_scratch = txk_gemm_int4_scratch_##row,                         \
    .gemm_int4 = txk_gemm_int4_##row

#endif
