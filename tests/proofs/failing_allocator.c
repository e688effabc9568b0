/* Preloaded, it lets the n-th allocation that comes from one library fail: malloc, calloc, realloc and mmap, told by who calls.
 * fail_at(n) starts to count (0: none fails); counted() tells how many there were since. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>

static atomic_long count, at;
static atomic_int counting;

void fail_at(long n)
{
    atomic_store(&count, 0);
    atomic_store(&at, n);
    atomic_store(&counting, n >= 0);
}

long counted(void)
{
    return atomic_load(&count);
}

static int fails(const void *caller)
{
    Dl_info info;
    if (!atomic_load(&counting) || !dladdr(caller, &info) || !info.dli_fname || !strstr(info.dli_fname, "textok/_core"))
        return 0;
    return atomic_fetch_add(&count, 1) + 1 == atomic_load(&at);
}

#define REAL(type, name, ...)                            \
    static type (*real)(__VA_ARGS__);                    \
    if (!real)                                           \
        real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);

void *malloc(size_t size)
{
    return fails(__builtin_return_address(0)) ? (errno = ENOMEM, NULL) : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    return fails(__builtin_return_address(0)) ? (errno = ENOMEM, NULL) : __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    return fails(__builtin_return_address(0)) ? (errno = ENOMEM, NULL) : __libc_realloc(p, size);
}

void *mmap(void *p, size_t size, int protection, int flags, int file, off_t offset)
{
    REAL(void *, mmap, void *, size_t, int, int, int, off_t);
    return fails(__builtin_return_address(0)) ? (errno = ENOMEM, MAP_FAILED) : real(p, size, protection, flags, file, offset);
}
