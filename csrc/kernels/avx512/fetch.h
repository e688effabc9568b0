/* What a tile fetches into L2 while it multiplies: the weights whose turn is next, or what its product was asked to fetch
 * beside them (struct tx_fetch). Both are shared out among tiles in whole lines, as evenly as those allow; a tile fetches one
 * of the two, since a second loop in its steps costs products that need none of it up to a hundredth. */
#ifndef TXK_AVX512_FETCH_H
#define TXK_AVX512_FETCH_H

#include "simd.h"

struct fetch {
    const char *at;
    size_t lines;           /* in each step of the tile: 4 k, or 4 dwords of K */
};

/* Part i of `parts` of `lines` a step, from `at` on. */
static inline struct fetch fetch_part(const void *at, size_t lines, size_t parts, size_t i, size_t steps)
{
    const size_t before = lines * i / parts;
    return (struct fetch){(const char *)at + before * steps * 64, lines * (i + 1) / parts - before};
}

/* How many of `parts` tiles fetch the weights whose turn is next. What goes beside them is half as much: a third of the tiles
 * fetch that. */
static inline size_t fetch_tiles(const struct tx_fetch *job, size_t parts)
{
    return job->beside_bytes && parts > 1 ? parts - (parts + 2) / 3 : parts;
}

/* What tiles fetch of job->beside: `lines` a step of one tile are all of it. */
struct fetch_beside {
    const char *at;
    size_t lines, tiles, tile;
};

static inline struct fetch_beside fetch_beside(const struct tx_fetch *job, size_t tiles, size_t steps)
{
    const size_t lines = (job->beside_bytes + 63) / 64;
    return (struct fetch_beside){job->beside, tiles && steps ? (lines + steps - 1) / steps : 0, tiles ? tiles : 1, 0};
}

static inline struct fetch fetch_beside_next(struct fetch_beside *b, size_t steps)
{
    const struct fetch fetch = fetch_part(b->at, b->lines, b->tiles, b->tile, steps);
    b->tile++;
    return fetch;
}

/* One step's lines. */
TXK_INLINE void fetch_step(struct fetch *f)
{
    for (size_t i = 0; i < f->lines; i++, f->at += 64)
        _mm_prefetch(f->at, _MM_HINT_T1);
}

#endif
