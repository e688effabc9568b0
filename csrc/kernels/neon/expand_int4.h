/* A panel's bytes from its nibbles (../gemm_int4.h), for the gemm_int4.c of all NEON rows: 16 columns, `side` k of a column
 * side by side, so that a line has 16 side bytes: its first half in the low nibbles, its second half in the high ones. */
#ifndef TXK_NEON_EXPAND_INT4_H
#define TXK_NEON_EXPAND_INT4_H

#include <arm_neon.h>

#include "../gemm_int4.h"

static inline __attribute__((always_inline)) void expand_int4(char *to, const uint8_t *scales, const uint8_t *nibbles,
                                                              size_t Kp, const size_t side)
{
    const size_t half = 8 * side;
    for (size_t g = 0; g < Kp / TX_INT4_GROUP; g++) {
        int8_t scale[16 * 8];       /* of each byte of a line */
        for (size_t j = 0; j < 16; j++)
            memset(scale + j * side, scales[16 * g + j], side);
        for (size_t line = 0; line < TX_INT4_GROUP / side; line++, to += 2 * half, nibbles += half)
            for (size_t i = 0; i < half; i += 8) {
                const uint8x8_t x = vld1_u8(nibbles + i);
                const int8x8_t low = vreinterpret_s8_u8(vand_u8(x, vdup_n_u8(15)));
                const int8x8_t high = vreinterpret_s8_u8(vshr_n_u8(x, 4)), eight = vdup_n_s8(8);
                vst1_s8((int8_t *)to + i, vmul_s8(vsub_s8(low, eight), vld1_s8(scale + i)));
                vst1_s8((int8_t *)to + half + i, vmul_s8(vsub_s8(high, eight), vld1_s8(scale + half + i)));
            }
    }
}

#endif
