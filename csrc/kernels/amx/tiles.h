/* Tiles: eight registers of up to 16 rows of 64 bytes. Wrappers of the instructions, since the compiler's own intrinsics for
 * loads do not tell it that memory is read; the shapes of the eight tiles; nothing here runs before the CPU check.
 *
 * The configuration belongs to the thread. Each kernel call loads its own and gives the tiles back at its end (amx_done), so
 * that it neither relies on nor leaves anything: some 60 ns a call, and a thread without live tiles is cheaper to switch. */
#ifndef TXK_AMX_TILES_H
#define TXK_AMX_TILES_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

enum { AMX_ROWS = 16, AMX_BYTES = 64 };

struct amx_shape {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64)));

/* All eight tiles whole. */
#define AMX_WHOLE {.palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}}

#ifndef TX_EMULATE_AMX
#define amx_load(tile, base, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(base), "r"((size_t)(stride)) : "memory")
#define amx_store(tile, base, stride) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(base), "r"((size_t)(stride)) : "memory")
#define amx_zero(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
#define amx_dot_bf16(sum, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)
#define amx_dot_int8(sum, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)

static inline void amx_config(const struct amx_shape *shape)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*shape) : "memory");
}

static inline void amx_done(void)
{
    __asm__ volatile("tilerelease" : :);
}
#else
#include "tiles_emulated.h"
#endif

#endif
