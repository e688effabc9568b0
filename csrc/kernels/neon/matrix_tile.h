/* Tiles of products by SMMLA and BFMMLA, which multiply 16 bytes of two rows of A by 16 bytes of two columns of W into a square
 * of four sums: 32 products of int8 an instruction, 16 of bfloat16.
 *
 * 8 bytes of k of a row and of its neighbour lie side by side, and so do those of a column and the next. A tile has 6 rows and
 * 16 columns: 3 x 8 squares fill 24 registers, and 11 loads serve 24 instructions. prepare_pairs lays A out, a last odd row
 * with zeros beside it; W is packed so.
 *
 * Sums wait between sections as rows (row 0 in the lower halves of squares, row 1 in the upper): halves change places. */
#ifndef TXK_NEON_MATRIX_TILE_H
#define TXK_NEON_MATRIX_TILE_H

#include "gemm_narrow.h"

/* to: [rows/2][K bytes/8][2][8]; a pair is 2 SECTION_BYTES. */
TXK_INLINE void prepare_pairs(char *to, const char *a, size_t lda, size_t rows, size_t bytes)
{
    for (size_t r = 0; r < rows; r += 2, to += 2 * SECTION_BYTES)
        for (size_t k = 0; k < bytes; k += 8) {
            const uint8x8_t first = vld1_u8((const uint8_t *)a + r * lda + k);
            const uint8x8_t second = r + 1 < rows ? vld1_u8((const uint8_t *)a + (r + 1) * lda + k) : vdup_n_u8(0);
            vst1q_u8((uint8_t *)to + 2 * k, vcombine_u8(first, second));
        }
}

TXK_INLINE float32x4_t low_halves(float32x4_t a, float32x4_t b)
{
    return vcombine_f32(vget_low_f32(a), vget_low_f32(b));
}

TXK_INLINE float32x4_t high_halves(float32x4_t a, float32x4_t b)
{
    return vcombine_f32(vget_high_f32(a), vget_high_f32(b));
}

/* The tile, by `load(p)`, 16 bytes as a vector_t of factor_t, and `multiply(sums, a, w)`, whose sums are 16 bytes of whatever
 * type. */
#define MATRIX_TILE(factor_t, vector_t, load, multiply)                                                           \
    TXK_INLINE void tile(const struct narrow_tile *t, const int MR)                                               \
    {                                                                                                             \
        enum { PAIRS = TILE_ROWS / 2, SQUARES = PANEL / 2 };                                                      \
        float32x4_t acc[PAIRS][SQUARES];                                                                          \
        float *c = t->c;                                                                                          \
        const float32x4_t zero = vdupq_n_f32(0);                                                                  \
        _Pragma("GCC unroll 3") for (int p = 0; 2 * p < MR; p++)                                                  \
            _Pragma("GCC unroll 4") for (int j = 0; j < SQUARES; j += 2)                                          \
        {                                                                                                         \
            const float32x4_t up = t->more ? vld1q_f32(c + 2 * p * RUN + 2 * j) : zero;                           \
            const float32x4_t down = t->more && 2 * p + 1 < MR ? vld1q_f32(c + (2 * p + 1) * RUN + 2 * j) : zero; \
            acc[p][j] = low_halves(up, down);                                                                     \
            acc[p][j + 1] = high_halves(up, down);                                                                \
        }                                                                                                         \
        const char *a = t->a, *w = t->w;                                                                          \
        for (size_t bytes = t->K * sizeof(factor_t); bytes > 0; bytes -= 8, a += 16, w += 16 * SQUARES) {         \
            const vector_t a0 = load(a), a1 = MR > 2 ? load(a + 2 * SECTION_BYTES) : a0;                          \
            const vector_t a2 = MR > 4 ? load(a + 4 * SECTION_BYTES) : a0;                                        \
            _Pragma("GCC unroll 8") for (int j = 0; j < SQUARES; j++)                                             \
            {                                                                                                     \
                TILE_IN_TURN();                                                                                   \
                const vector_t x = load(w + 16 * j);                                                              \
                acc[0][j] = multiply(acc[0][j], a0, x);                                                           \
                if (MR > 2)                                                                                       \
                    acc[1][j] = multiply(acc[1][j], a1, x);                                                       \
                if (MR > 4)                                                                                       \
                    acc[2][j] = multiply(acc[2][j], a2, x);                                                       \
            }                                                                                                     \
        }                                                                                                         \
        _Pragma("GCC unroll 3") for (int p = 0; 2 * p < MR; p++)                                                  \
            _Pragma("GCC unroll 4") for (int j = 0; j < SQUARES; j += 2)                                          \
        {                                                                                                         \
            vst1q_f32(c + 2 * p * RUN + 2 * j, low_halves(acc[p][j], acc[p][j + 1]));                             \
            if (2 * p + 1 < MR)                                                                                   \
                vst1q_f32(c + (2 * p + 1) * RUN + 2 * j, high_halves(acc[p][j], acc[p][j + 1]));                  \
        }                                                                                                         \
    }

#endif
