/* Tiles in plain C, for tests where the CPU has none (TEXTOK_EMULATE_AMX in setup.py), after the pseudocode of Intel's manual.
 * Unlike the instructions it is seen by the sanitizers: every byte that a tile loads or stores. A tile that is used without a
 * configuration, or with shapes that do not fit, ends the process, as the instruction would. */
#ifndef TXK_AMX_TILES_EMULATED_H
#define TXK_AMX_TILES_EMULATED_H

#include <math.h>
#include <string.h>

static _Thread_local struct {
    struct amx_shape shape;
    char tiles[8][AMX_ROWS][AMX_BYTES];
} amx;

static inline int amx_rows(int tile)
{
    if (!amx.shape.palette || !amx.shape.rows[tile])
        __builtin_trap();
    return amx.shape.rows[tile];
}

static inline void amx_config(const struct amx_shape *shape)
{
    amx.shape = *shape;
    memset(amx.tiles, 0, sizeof amx.tiles);
}

static inline void amx_done(void)
{
    memset(&amx, 0, sizeof amx);
}

static inline void amx_zero(int tile)
{
    (void)amx_rows(tile);
    memset(amx.tiles[tile], 0, sizeof amx.tiles[tile]);
}

static inline void amx_load(int tile, const void *base, size_t stride)
{
    const int rows = amx_rows(tile);
    amx_zero(tile);
    for (int r = 0; r < rows; r++)
        memcpy(amx.tiles[tile][r], (const char *)base + (size_t)r * stride, amx.shape.row_bytes[tile]);
}

static inline void amx_store(int tile, void *base, size_t stride)
{
    const int rows = amx_rows(tile);
    for (int r = 0; r < rows; r++)
        memcpy((char *)base + (size_t)r * stride, amx.tiles[tile][r], amx.shape.row_bytes[tile]);
}

/* K in fours of bytes; rows of B are as many. */
static inline int amx_depth(int sum, int a, int b)
{
    const int depth = amx.shape.row_bytes[a] / 4;
    if (amx_rows(a) != amx_rows(sum) || amx_rows(b) != depth || amx.shape.row_bytes[b] != amx.shape.row_bytes[sum])
        __builtin_trap();
    return depth;
}

static inline float amx_of_bf16(uint16_t half)
{
    const uint32_t bits = (half & 0x7f80) ? (uint32_t)half << 16 : (uint32_t)(half & 0x8000) << 16; /* denormals are zeros */
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float amx_flushed(float value)
{
    return fabsf(value) < 0x1p-126f ? copysignf(0, value) : value;
}

static inline void amx_dot_bf16(int sum, int a, int b)
{
    const int depth = amx_depth(sum, a, b), columns = amx.shape.row_bytes[sum] / 4;
    for (int m = 0; m < amx_rows(sum); m++) {
        float total[AMX_BYTES / 4], even[AMX_BYTES / 4] = {0}, odd[AMX_BYTES / 4] = {0};
        uint16_t factors[AMX_BYTES / 2], row[AMX_BYTES / 2];
        memcpy(total, amx.tiles[sum][m], sizeof total);
        memcpy(factors, amx.tiles[a][m], sizeof factors);
        for (int k = 0; k < depth; k++) {
            memcpy(row, amx.tiles[b][k], sizeof row);
            const float first = amx_of_bf16(factors[2 * k]), second = amx_of_bf16(factors[2 * k + 1]);
            for (int n = 0; n < columns; n++) {
                even[n] = amx_flushed(fmaf(first, amx_of_bf16(row[2 * n]), even[n]));
                odd[n] = amx_flushed(fmaf(second, amx_of_bf16(row[2 * n + 1]), odd[n]));
            }
        }
        for (int n = 0; n < columns; n++)
            total[n] = amx_flushed(total[n] + amx_flushed(even[n] + odd[n]));
        memcpy(amx.tiles[sum][m], total, sizeof total);
    }
}

static inline void amx_dot_int8(int sum, int a, int b)
{
    const int depth = amx_depth(sum, a, b), columns = amx.shape.row_bytes[sum] / 4;
    for (int m = 0; m < amx_rows(sum); m++) {
        int32_t total[AMX_BYTES / 4];
        int8_t factors[AMX_BYTES], row[AMX_BYTES];
        memcpy(total, amx.tiles[sum][m], sizeof total);
        memcpy(factors, amx.tiles[a][m], sizeof factors);
        for (int k = 0; k < depth; k++) {
            memcpy(row, amx.tiles[b][k], sizeof row);
            for (int n = 0; n < columns; n++) {
                int32_t dot = 0;
                for (int i = 0; i < 4; i++)
                    dot += factors[4 * k + i] * row[4 * n + i];
                total[n] = (int32_t)((uint32_t)total[n] + (uint32_t)dot);
            }
        }
        memcpy(amx.tiles[sum][m], total, sizeof total);
    }
}

#endif
