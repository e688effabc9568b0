/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) in bfloat16 or int8: what the gemm_bf16.c and gemm_int8.c of all NEON rows share.
 *
 * Packed W: panels of 16 columns, [N/16][Kp/side][16][side]: `side` k of a column side by side, as the row's instruction takes
 * them (1, 4 or 8); Kp = tx_k_padded(K), zero padded, and so are A's rows: no tails in K.
 *
 * Order: blocks of ROWS rows > runs of RUN columns > sections of K, of which the block's part of A is prepared once (widened,
 * or its rows laid side by side in pairs) > panels, whose section is widened where the row has no product of the dtype itself >
 * tiles of at most 6 rows. So what prepares A serves 256 columns, and what widens W 48 rows. Sums over sections wait in a
 * strip, and all of it is 112 KB of the stack. The chain of each sum knows about none of this.
 *
 * A file that includes this gives the tiles and what they need; the kind is a constant of each. */
#ifndef TXK_NEON_GEMM_NARROW_H
#define TXK_NEON_GEMM_NARROW_H

#include "epilogue.h"
#include "row.h"
#include "tile.h"

enum {
    ROWS = 48,                  /* of a block */
    RUN = 256,                  /* columns */
    SECTION_BYTES = 1024,       /* of a row of A as the tiles read it */
};

struct narrow_tile {
    const char *a;              /* rows lda bytes apart; or TILE_ROWS * SECTION_BYTES as prepare_a has left them */
    size_t lda;
    const char *w;              /* a panel's section */
    size_t K;                   /* a multiple of 64 */
    void *c;                    /* [rows,16], RUN apart: float32, or int32 */
    int more;                   /* 1: add to what is in c */
};

typedef void narrow_tile_function(const struct narrow_tile *);

struct narrow_kind {
    size_t size;                /* bytes of an element of A and of packed W */
    size_t section;             /* elements of K */
    narrow_tile_function *const *tiles;
    /* Rows of A, lda bytes apart, as the tiles want them; NULL: they read A in place. */
    void (*prepare_a)(char *to, const char *a, size_t lda, size_t rows, size_t K);
    /* A panel's section; NULL: the tiles read W in place. */
    void (*widen_w)(char *to, const char *w, size_t K);
    int int8;                   /* the sums are int32 and get scales */
};

TXK_INLINE size_t narrow_at(size_t n, size_t k, size_t Kp, size_t side)
{
    return n / PANEL * PANEL * Kp + k / side * side * PANEL + n % PANEL * side + k % side;
}

TXK_INLINE size_t narrow_packed(size_t N, size_t K)
{
    return (N + PANEL - 1) / PANEL * PANEL * tx_k_padded(K);
}

TXK_INLINE void pack_bf16(uint16_t *dst, const float *w, size_t K, size_t n0, size_t n1, size_t side)
{
    const size_t Kp = tx_k_padded(K), end = (n1 + PANEL - 1) / PANEL * PANEL;
    for (size_t n = n0; n < end; n++)
        for (size_t k = 0; k < Kp; k++)
            dst[narrow_at(n, k, Kp, side)] = n < n1 && k < K ? tx_bf16_of_float(w[n * K + k]) : 0;
}

TXK_INLINE void unpack_bf16(uint16_t *w, const uint16_t *packed, size_t N, size_t K, size_t side)
{
    for (size_t n = 0; n < N; n++)
        for (size_t k = 0; k < K; k++)
            w[n * K + k] = packed[narrow_at(n, k, tx_k_padded(K), side)];
}

TXK_INLINE void pack_int8(int8_t *dst, const int8_t *w, size_t K, size_t n0, size_t n1, size_t side)
{
    const size_t Kp = tx_k_padded(K), end = (n1 + PANEL - 1) / PANEL * PANEL;
    for (size_t n = n0; n < end; n++)
        for (size_t k = 0; k < Kp; k++)
            dst[narrow_at(n, k, Kp, side)] = n < n1 && k < K ? w[n * K + k] : 0;
}

TXK_INLINE void unpack_int8(int8_t *w, const int8_t *packed, size_t N, size_t K, size_t side)
{
    for (size_t n = 0; n < N; n++)
        for (size_t k = 0; k < K; k++)
            w[n * K + k] = packed[narrow_at(n, k, tx_k_padded(K), side)];
}

/* int32 sums of a tile get their scales, in place. */
TXK_INLINE void finish_int8(const struct tx_gemm_narrow *job, float *c, size_t m, size_t rows, size_t n, size_t columns)
{
    for (size_t j = 0; j < columns; j += 4) {
        const float32x4_t w_scale = load_f32x4(job->w_scale + n + j, columns - j);
        for (size_t i = 0; i < rows; i++) {
            const float32x4_t scale = vmulq_f32(vdupq_n_f32(job->a_scale[m + i]), w_scale);
            const int32x4_t sum = vld1q_s32((const int32_t *)(c + i * RUN + j));
            vst1q_f32(c + i * RUN + j, vmulq_f32(vcvtq_f32_s32(sum), scale));
        }
    }
}

static void store_tile(const struct tx_gemm_narrow *job, float *c, size_t m, size_t rows, size_t n, size_t columns)
{
    const struct tx_epilogue_f32 e = epilogue_at(&job->epilogue, m, n);
    if (!job->out_bf16) {
        txk_epilogue_f32_neon((float *)job->out + m * job->ldo + n, job->ldo, c, RUN, rows, columns, &e);
        return;
    }
    txk_epilogue_f32_neon(c, RUN, c, RUN, rows, columns, &e);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j += 4)
            store_bf16x4((uint16_t *)job->out + (m + i) * job->ldo + n + j, columns - j, vld1q_f32(c + i * RUN + j));
}

/* Rows m0..m1 against columns n0..n1 (at most ROWS and RUN). */
TXK_INLINE void gemm_narrow_block(const struct tx_gemm_narrow *job, const struct narrow_kind *kind, size_t m0, size_t m1,
                                  size_t n0, size_t n1)
{
    char prepared[ROWS * SECTION_BYTES] __attribute__((aligned(64)));
    char wide[PANEL * SECTION_BYTES] __attribute__((aligned(64)));
    float strip[ROWS * RUN] __attribute__((aligned(64)));
    const size_t Kp = tx_k_padded(job->K), size = kind->size, parts = (m1 - m0 + TILE_ROWS - 1) / TILE_ROWS;
    for (size_t k0 = 0; k0 < Kp; k0 += kind->section) {
        const size_t k1 = k0 + kind->section < Kp ? k0 + kind->section : Kp;
        const char *a = (const char *)job->a + k0 * size, *w = (const char *)job->w + k0 * PANEL * size;
        for (size_t i = 0; i < parts && kind->prepare_a; i++) {
            const size_t m = m0 + part_begin(m1 - m0, parts, i), rows = m0 + part_begin(m1 - m0, parts, i + 1) - m;
            kind->prepare_a(prepared + i * TILE_ROWS * SECTION_BYTES, a + m * job->lda * size, job->lda * size, rows, k1 - k0);
        }
        for (size_t n = n0; n < n1; n += PANEL) {
            const char *section = w + n * Kp * size;
            if (kind->widen_w) {
                kind->widen_w(wide, section, k1 - k0);
                section = wide;
            }
            for (size_t i = 0; i < parts; i++) {
                const size_t m = m0 + part_begin(m1 - m0, parts, i), rows = m0 + part_begin(m1 - m0, parts, i + 1) - m;
                float *c = strip + (m - m0) * RUN + n - n0;
                struct narrow_tile t = {.a = a + m * job->lda * size, .lda = job->lda * size, .w = section, .K = k1 - k0,
                                        .c = c, .more = k0 > 0};
                if (kind->prepare_a)
                    t.a = prepared + i * TILE_ROWS * SECTION_BYTES, t.lda = SECTION_BYTES;
                kind->tiles[rows - 1](&t);
                if (k1 == Kp) {
                    const size_t columns = n1 - n < PANEL ? n1 - n : PANEL;
                    if (kind->int8)
                        finish_int8(job, c, m, rows, n, columns);
                    store_tile(job, c, m, rows, n, columns);
                }
            }
        }
    }
}

TXK_INLINE void gemm_narrow(const struct tx_gemm_narrow *job, const struct narrow_kind *kind)
{
    const size_t blocks = (job->M + ROWS - 1) / ROWS;
    for (size_t b = 0; b < blocks; b++)
        for (size_t n = job->n0; n < job->n1; n += RUN) {
            const size_t n1 = n + RUN < job->n1 ? n + RUN : job->n1;
            gemm_narrow_block(job, kind, part_begin(job->M, blocks, b), part_begin(job->M, blocks, b + 1), n, n1);
        }
}

#define NARROW_TILES                                                                                                     \
    TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)                                                                      \
    static narrow_tile_function *const tiles[TILE_ROWS] = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6};

#endif
