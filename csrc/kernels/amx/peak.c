/* The register-only rates of the tiles: as avx512/peak.c, with four tiles of sums and four of factors that no memory feeds. */
#include "tiles.h"
#include "row.h"

double txk_peak_bf16_amx(size_t rounds)
{
    static const struct amx_shape whole = AMX_WHOLE;
    amx_config(&whole); /* leaves zeros in the tiles */
    for (size_t n = 0; n < rounds; n++) {
        amx_dot_bf16(0, 4, 6);
        amx_dot_bf16(1, 4, 7);
        amx_dot_bf16(2, 5, 6);
        amx_dot_bf16(3, 5, 7);
    }
    amx_done();
    return (double)rounds * 4 * 16 * 16 * 32 * 2;
}

double txk_peak_int8_amx(size_t rounds)
{
    static const struct amx_shape whole = AMX_WHOLE;
    amx_config(&whole);
    for (size_t n = 0; n < rounds; n++) {
        amx_dot_int8(0, 4, 6);
        amx_dot_int8(1, 4, 7);
        amx_dot_int8(2, 5, 6);
        amx_dot_int8(3, 5, 7);
    }
    amx_done();
    return (double)rounds * 4 * 16 * 16 * 64 * 2;
}
