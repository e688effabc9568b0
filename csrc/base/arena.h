/* One block of memory for all of a run. The same plan function runs twice: on an arena without memory, where it only measures,
 * and on the real one, where it assigns. Nothing is freed but the whole. */
#ifndef TX_ARENA_H
#define TX_ARENA_H

#include "base.h"

struct tx_arena {
    char *base;     /* NULL while measuring */
    size_t size;    /* bytes behind base */
    size_t used;    /* bytes handed out so far */
    int leave;      /* the next run may have the block */
};

/* Room for count elements of `size` bytes, aligned to TX_ALIGN. NULL while measuring. Overflow saturates `used`, so the block
 * that is then asked for cannot be had and the run ends with TX_ENOMEM. */
void *tx_arena_take(struct tx_arena *arena, size_t count, size_t size);

/* Get the block that `measured.used` asks for; it holds zeros. */
enum tx_status tx_arena_open(struct tx_arena *arena, const struct tx_arena *measured, struct tx_error *err);

/* The same for a run: the block of the last one, where it is large enough, which holds anything. Fresh pages are a fault each
 * and cleared first, 2 to 7% of the time of a ViT-Base encode. Between runs the system may have the pages back if it needs them
 * (MADV_FREE). */
enum tx_status tx_arena_reopen(struct tx_arena *arena, const struct tx_arena *measured, struct tx_error *err);
void tx_arena_close(struct tx_arena *arena);

#endif
