/* CPUID and XGETBV, asked once; the affinity mask and the cgroup's CPU quota. */
#define _GNU_SOURCE
#include "cpu.h"

#include <sched.h>
#include <stddef.h>
#include <stdio.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t xgetbv0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((uint64_t)hi << 32) | lo;
}

/* Linux gives tiles to processes that ask (arch_prctl ARCH_REQ_XCOMP_PERM, state component 18: 8 KB more for each thread's saved
 * registers, which may not fit the signal stacks of a process that set up small ones; then it refuses). Threads inherit the permission. */
static int may_use_tiles(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return (xgetbv0() & 0x60000) == 0x60000 && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

static uint32_t find_bits(void)
{
    unsigned a, b, c, d, a7, b7, c7, d7;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    if (!__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7))
        return 0;
    const uint64_t saved = xgetbv0();
    const int ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6;
    uint32_t bits = 0;
    if (ymm && (c & bit_AVX) && (c & bit_FMA) && (c & bit_F16C) && (b7 & bit_AVX2))
        bits |= TX_CPU_AVX2;
    unsigned a71 = 0, b71, c71, d71;
    if (a7 < 1 || !__get_cpuid_count(7, 1, &a71, &b71, &c71, &d71))
        a71 = 0;
    if ((bits & TX_CPU_AVX2) && (a71 & (1u << 4)))
        bits |= TX_CPU_AVX_VNNI;
    const unsigned need = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if (zmm && (bits & TX_CPU_AVX2) && (b7 & need) == need) {
        bits |= TX_CPU_AVX512;
        if (c7 & bit_AVX512VNNI)
            bits |= TX_CPU_AVX512_VNNI;
        if (a71 & (1u << 5))
            bits |= TX_CPU_AVX512_BF16;
        const int vbmi = (c7 & bit_AVX512VBMI) != 0; /* every CPU with tiles has it */
        const unsigned tiles = 1u << 22 | 1u << 24 | 1u << 25; /* AMX-BF16, AMX-TILE, AMX-INT8 */
        if ((d7 & tiles) == tiles && vbmi && may_use_tiles())
            bits |= TX_CPU_AMX;
    }
    return bits;
}

static uint32_t bits;

static void set_bits(void)
{
    bits = find_bits();
}

uint32_t tx_cpu_bits(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_bits);
    return bits;
}
#else
uint32_t tx_cpu_bits(void)
{
    return 0;
}
#endif

const char *tx_cpu_bit_name(int index)
{
    static const char *const names[] = {"avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx", "avx_vnni"};
    return index >= 0 && (size_t)index < sizeof names / sizeof *names ? names[index] : NULL;
}

/* The quota in this process's own cgroup (v2: /sys/fs/cgroup/cpu.max as a container sees it; v1: cpu.cfs_*). 0: no limit. */
static int cgroup_cpus(void)
{
    long long quota = -1, period = 0;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f) {
        if (fscanf(f, "%lld %lld", &quota, &period) != 2)
            quota = -1;
        fclose(f);
    } else {
        if ((f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "re"))) {
            if (fscanf(f, "%lld", &quota) != 1)
                quota = -1;
            fclose(f);
        }
        if (quota > 0 && (f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "re"))) {
            if (fscanf(f, "%lld", &period) != 1)
                period = 0;
            fclose(f);
        }
    }
    if (quota <= 0 || period <= 0)
        return 0;
    const long long cpus = (quota + period - 1) / period;
    return cpus > 4096 ? 4096 : (int)cpus;
}

int tx_cpu_count(void)
{
    int n = 1;
    /* A mask of 8192 CPUs: larger than any kernel's today, so the call does not fail for want of room. */
    cpu_set_t *set = CPU_ALLOC(8192);
    if (set) {
        const size_t size = CPU_ALLOC_SIZE(8192);
        if (sched_getaffinity(0, size, set) == 0)
            n = CPU_COUNT_S(size, set);
        CPU_FREE(set);
    }
    const int quota = cgroup_cpus();
    if (quota > 0 && quota < n)
        n = quota;
    return n < 1 ? 1 : n;
}
