#define _GNU_SOURCE
#include "arena.h"

#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20 };

/* Anonymous mappings rather than malloc: what a run used goes back to the system when it ends, and pages come zeroed, so that row
 * padding holds numbers. */
void *tx_alloc(size_t bytes)
{
    const size_t size = tx_round_up(bytes ? bytes : 1, 4096);
    if (size < bytes)
        return NULL;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (size >= HUGE_PAGE)
        madvise(p, size, MADV_HUGEPAGE); /* advice: nothing depends on it */
    return p;
}

void tx_free(void *p, size_t bytes)
{
    if (p)
        munmap(p, tx_round_up(bytes ? bytes : 1, 4096));
}

void *tx_arena_take(struct tx_arena *arena, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 4 || arena->used > SIZE_MAX / 4) {
        arena->used = SIZE_MAX / 2;
        return NULL;
    }
    const size_t at = arena->used;
    arena->used = at + tx_round_up(bytes, TX_ALIGN);
    return arena->base && arena->used <= arena->size ? arena->base + at : NULL;
}

enum tx_status tx_arena_open(struct tx_arena *arena, const struct tx_arena *measured, struct tx_error *err)
{
    *arena = (struct tx_arena){.size = measured->used};
    arena->base = tx_alloc(arena->size);
    return arena->base ? TX_OK : tx_fail_memory(err, arena->size);
}

void tx_arena_close(struct tx_arena *arena)
{
    tx_free(arena->base, arena->size);
    *arena = (struct tx_arena){0};
}
