/* What this CPU and its operating system can run, and how many CPUs this process may use. */
#ifndef TX_CPU_H
#define TX_CPU_H

#include <stdint.h>

/* Each bit means that the instructions exist AND that the OS saves the registers they use. */
enum tx_cpu_bit {
    TX_CPU_AVX2 = 1u << 0,          /* AVX2 + FMA + F16C, ymm saved */
    TX_CPU_AVX512 = 1u << 1,        /* F + BW + DQ + VL, zmm and masks saved */
    TX_CPU_AVX512_VNNI = 1u << 2,
    TX_CPU_AVX512_BF16 = 1u << 3,
    TX_CPU_AMX = 1u << 4,           /* AVX512_VBMI; tiles and their products, for a process that has asked for them */
    TX_CPU_AVX_VNNI = 1u << 5,      /* the 256-bit form */
    TX_CPU_NEON = 1u << 6,          /* ASIMD: every aarch64 */
    TX_CPU_NEON_DOT = 1u << 7,      /* SDOT */
    TX_CPU_NEON_I8MM = 1u << 8,     /* SMMLA */
    TX_CPU_NEON_BF16 = 1u << 9,     /* BFMMLA */
};

uint32_t tx_cpu_bits(void);
const char *tx_cpu_bit_name(int index); /* name of bit 1u << index, or NULL past the last */

/* Linux gives tiles to processes that ask (arch_prctl ARCH_REQ_XCOMP_PERM, state component 18): 8 KB more for each thread's
 * saved registers, which may not fit the signal stacks of a process that set up small ones; then it refuses. Threads inherit
 * the permission, and nobody can give it back, so only who is about to use tiles asks. Whether they may be used. */
int tx_cpu_ask_for_tiles(void);

/* CPUs that the calling thread may run on now, at least 1. */
int tx_cpu_affinity(void);
/* CPUs this process may use: those, cut by the quota, at least 1. */
int tx_cpu_count(void);
/* The smallest CPU quota of this process's cgroup and those around it, rounded up; 0: none. `root` goes before /proc and /sys
 * (for tests). */
int tx_cpu_quota(const char *root);

#endif
