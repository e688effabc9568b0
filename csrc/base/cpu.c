/* CPUID and XGETBV, asked once, or what the system says of an ARM; the affinity mask and the CPU quotas of the cgroups. */
#define _GNU_SOURCE
#include "cpu.h"

#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#include <pthread.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

static uint64_t xgetbv0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((uint64_t)hi << 32) | lo;
}

int tx_cpu_ask_for_tiles(void)
{
#ifdef TX_EMULATE_AMX
    return 1;
#endif
#ifdef __linux__
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return 0;
#endif
}

static uint32_t find_bits(void)
{
    unsigned a, b, c, d, a7, b7, c7, d7;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    if (!__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7))
        return 0;
    const uint64_t saved = xgetbv0();
    const int ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6, tmm = (saved & 0x60000) == 0x60000;
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
#ifdef TX_EMULATE_AMX /* what else the row's files are compiled for */
        if (vbmi && (bits & TX_CPU_AVX512_BF16))
            bits |= TX_CPU_AMX;
#endif
        if (tmm && (d7 & tiles) == tiles && vbmi)
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
#if defined(__aarch64__) && defined(__linux__)
uint32_t tx_cpu_bits(void)
{
    enum { DOT = 1 << 20, I8MM = 1 << 13, BF16 = 1 << 14 }; /* of the two words of hwcaps */
    const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    return TX_CPU_NEON | (first & DOT ? TX_CPU_NEON_DOT : 0u) | (second & I8MM ? TX_CPU_NEON_I8MM : 0u) |
           (second & BF16 ? TX_CPU_NEON_BF16 : 0u);
}
#elif defined(__aarch64__) && defined(__APPLE__)
static int has(const char *name)
{
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value;
}

uint32_t tx_cpu_bits(void)
{
    return TX_CPU_NEON | (has("hw.optional.arm.FEAT_DotProd") ? TX_CPU_NEON_DOT : 0u) |
           (has("hw.optional.arm.FEAT_I8MM") ? TX_CPU_NEON_I8MM : 0u) |
           (has("hw.optional.arm.FEAT_BF16") ? TX_CPU_NEON_BF16 : 0u);
}
#else
uint32_t tx_cpu_bits(void)
{
    return 0;
}
#endif

int tx_cpu_ask_for_tiles(void)
{
    return 0;
}
#endif

const char *tx_cpu_bit_name(int index)
{
    static const char *const names[] = {"avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx", "avx_vnni",
                                        "neon", "neon_dot", "neon_i8mm", "neon_bf16"};
    return index >= 0 && (size_t)index < sizeof names / sizeof *names ? names[index] : NULL;
}

/* How many numbers the file begins with, of two. "max", no limit, is none. */
static int read_numbers(const char *directory, const char *file, long long *a, long long *b)
{
    char name[4352];
    snprintf(name, sizeof name, "%s/%s", directory, file);
    FILE *f = fopen(name, "re");
    const int found = f ? fscanf(f, "%lld %lld", a, b) : 0;
    if (f)
        fclose(f);
    return found;
}

/* The quota that a cgroup's directory holds, in whole CPUs; 0: none. */
static int quota_in(const char *directory)
{
    long long quota = 0, period = 0, none;
    if (read_numbers(directory, "cpu.max", &quota, &period) != 2) { /* version 2; or 1: */
        read_numbers(directory, "cpu.cfs_quota_us", &quota, &none);
        read_numbers(directory, "cpu.cfs_period_us", &period, &none);
    }
    if (quota <= 0 || period <= 0)
        return 0;
    const long long cpus = (quota - 1) / period + 1;
    return cpus > 4096 ? 4096 : (int)cpus;
}

/* The smallest of `least` (0: none) and the quotas of the cgroup `path` below `mount` and of those around it, in whole CPUs. A
 * container may see the path of its host while its own cgroup is the mount: what is not there is passed over. */
static int least_quota(int least, const char *root, const char *mount, const char *path)
{
    char directory[4224];
    const int start = snprintf(directory, sizeof directory, "%s%s", root, mount);
    if ((size_t)snprintf(directory + start, sizeof directory - (size_t)start, "%s", path) >= sizeof directory - (size_t)start)
        directory[start] = 0;
    for (;;) {
        const int quota = quota_in(directory);
        if (quota && (!least || quota < least))
            least = quota;
        char *slash = strrchr(directory + start, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}

int tx_cpu_quota(const char *root)
{
    char name[512], line[4352];
    int least = 0;
    if ((size_t)snprintf(name, sizeof name, "%s/proc/self/cgroup", root) >= sizeof name)
        return 0;
    FILE *f = fopen(name, "re");
    if (!f)
        return least_quota(0, root, "/sys/fs/cgroup", "");
    while (fgets(line, sizeof line, f)) { /* "0::/path" in version 2; "4:cpu,cpuacct:/path" in version 1 */
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        if (controllers[1] == 0)
            least = least_quota(least, root, "/sys/fs/cgroup", path);
        for (char *rest, *one = strtok_r(controllers + 1, ",", &rest); one; one = strtok_r(NULL, ",", &rest))
            if (strcmp(one, "cpu") == 0)
                least = least_quota(least, root, "/sys/fs/cgroup/cpu", path);
    }
    fclose(f);
    return least;
}

int tx_cpu_affinity(void)
{
#ifdef __APPLE__ /* has no affinity of processes */
    int n = 0;
    size_t size = sizeof n;
    return sysctlbyname("hw.activecpu", &n, &size, NULL, 0) == 0 ? n : 1;
#else
    cpu_set_t set[8]; /* 8192 CPUs: more than any kernel's today, so that the call does not fail for want of room */
    return sched_getaffinity(0, sizeof set, set) == 0 ? CPU_COUNT_S(sizeof set, set) : 1;
#endif
}

int tx_cpu_count(void)
{
    int n = tx_cpu_affinity();
    const int quota = tx_cpu_quota("");
    if (quota > 0 && quota < n)
        n = quota;
    return n < 1 ? 1 : n;
}
