#define _GNU_SOURCE
#include "arena.h"

#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20 };

/* AddressSanitizer knows nothing of pieces within a mapping, so a build with it keeps a strip behind each that nobody may touch. The
 * strips are wide: a row too many, which is how a buffer is overrun here, must not jump over one. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
enum { STRIP = 4096 };
#define FORBID(p, bytes) ASAN_POISON_MEMORY_REGION(p, bytes)
#define ALLOW(p, bytes) ASAN_UNPOISON_MEMORY_REGION(p, bytes)
#else
enum { STRIP = 0 };
#define FORBID(p, bytes) ((void)(p), (void)(bytes))
#define ALLOW(p, bytes) ((void)(p), (void)(bytes))
#endif

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
    if (!p)
        return;
    ALLOW(p, bytes); /* the next mapping may lie here */
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
    arena->used = at + tx_round_up(bytes, TX_ALIGN) + STRIP;
    if (!arena->base || arena->used > arena->size)
        return NULL;
    FORBID(arena->base + at + bytes, arena->used - at - bytes);
    return arena->base + at;
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
