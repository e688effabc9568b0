#define _GNU_SOURCE
#include "arena.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#ifdef MADV_HUGEPAGE
enum { HUGE_PAGE = 2 << 20 };
#endif

/* AddressSanitizer knows nothing of pieces within a mapping, so a build with it keeps a strip behind each that nobody may
 * touch. The strips are wide: a row too many, which is how a buffer is overrun here, must not jump over one. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
enum { STRIP = 4096 };
#define FORBID(p, bytes) ASAN_POISON_MEMORY_REGION(p, bytes)
#define ALLOW(p, bytes) ASAN_UNPOISON_MEMORY_REGION(p, bytes)
#define SPOIL(p, bytes) memset(p, 0xff, bytes) /* NaN to every float: nothing may rely on what it finds */
#else
enum { STRIP = 0 };
#define FORBID(p, bytes) ((void)(p), (void)(bytes))
#define ALLOW(p, bytes) ((void)(p), (void)(bytes))
#define SPOIL(p, bytes) ((void)(p), (void)(bytes))
#endif

/* The block that the last run left for the next. */
static struct {
    pthread_mutex_t lock;
    char *base;
    size_t size;
} kept = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Leaves a block, or NULL, and takes what was there. Who cannot have the lock at once (another thread, or a fork in the middle
 * of this) does without: *size is then 0, and the block still its own. */
static char *exchange(char *base, size_t *size)
{
    if (pthread_mutex_trylock(&kept.lock) != 0) {
        *size = base ? *size : 0;
        return base;
    }
    char *const before = kept.base;
    const size_t before_size = kept.size;
    kept.base = base;
    kept.size = base ? *size : 0;
    pthread_mutex_unlock(&kept.lock);
    *size = before_size;
    return before;
}

static void *map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Anonymous mappings rather than malloc: what is freed goes back to the system, and pages come zeroed. */
void *tx_alloc(size_t bytes)
{
    const size_t size = tx_round_up(bytes ? bytes : 1, 4096);
    if (size < bytes)
        return NULL;
    void *p = map(size);
    if (!p) {
        /* What is kept to save time is not to be what is missing. */
        size_t kept_size = 0;
        char *base = exchange(NULL, &kept_size);
        tx_free(base, kept_size);
        p = base ? map(size) : NULL;
    }
    if (!p)
        return NULL;
#ifdef MADV_HUGEPAGE
    if (size >= HUGE_PAGE)
        madvise(p, size, MADV_HUGEPAGE); /* advice: nothing depends on it */
#endif
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

enum tx_status tx_arena_reopen(struct tx_arena *arena, const struct tx_arena *measured, struct tx_error *err)
{
    size_t size = 0;
    char *base = exchange(NULL, &size);
    if (size < measured->used) {
        tx_free(base, size);
        if (tx_arena_open(arena, measured, err) != TX_OK)
            return err->status;
    } else {
        *arena = (struct tx_arena){.base = base, .size = size};
    }
    arena->leave = 1;
    SPOIL(arena->base, arena->size);
    return TX_OK;
}

void tx_arena_close(struct tx_arena *arena)
{
    if (arena->base && arena->leave) {
        ALLOW(arena->base, arena->size);
        madvise(arena->base, tx_round_up(arena->size, 4096), MADV_FREE); /* advice */
        arena->base = exchange(arena->base, &arena->size);
    }
    tx_free(arena->base, arena->size);
    *arena = (struct tx_arena){0};
}
