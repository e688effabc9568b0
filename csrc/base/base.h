/* What every floor above knows: status with text, aligned memory, small helpers. Knows no tensors. */
#ifndef TX_BASE_H
#define TX_BASE_H

#include <stddef.h>
#include <stdint.h>

#define TX_ALIGN 64 /* a cache line and a zmm register */

/* TX_STOPPED: the caller's tick asked to stop; its own error (an exception) says why. */
enum tx_status { TX_OK = 0, TX_EINVAL, TX_ENOMEM, TX_STOPPED };

/* Where a function that can fail says what came and what was expected. Belongs to the caller. */
struct tx_error {
    enum tx_status status;
    char text[512];
};

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
enum tx_status tx_fail(struct tx_error *err, enum tx_status status, const char *format, ...);
enum tx_status tx_fail_memory(struct tx_error *err, size_t bytes);

/* Memory of the model's lifetime: aligned to TX_ALIGN, in huge pages where it is large and the system gives them. NULL: none
 * left. */
void *tx_alloc(size_t bytes);
void tx_free(void *p, size_t bytes);

static inline size_t tx_round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static inline size_t tx_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t tx_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The distance between rows of an activation matrix with D columns: an odd number of cache lines, so that the rows that a
 * kernel reads side by side do not fall into the same sets of the first-level cache. */
static inline size_t tx_ld(size_t D)
{
    const size_t lines = (D + 15) / 16;
    return (lines | 1) * 16;
}

#endif
