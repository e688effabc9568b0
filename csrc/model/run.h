/* One call: who computes, on how many threads, with what scratch, who may stop it and who watches. */
#ifndef TX_RUN_H
#define TX_RUN_H

#include <stdatomic.h>

#include "../base/base.h"
#include "../kernels/kernels.h"

/* Rows of several images, one after the other: image b has rows start[b]..start[b+1]. */
struct tx_seq {
    size_t images;
    const size_t *start;    /* [images + 1] */
};

static inline size_t tx_seq_rows(const struct tx_seq *seq)
{
    return seq->start[seq->images];
}

static inline size_t tx_seq_length(const struct tx_seq *seq, size_t image)
{
    return seq->start[image + 1] - seq->start[image];
}

/* Asked by the calling thread between tiles and between steps: anything but 0 stops the run with TX_STOPPED, and it is not
 * asked again. */
typedef int tx_tick(void *arg);
/* Shown an intermediate [rows,D] (ld): for tests. */
typedef void tx_tap(void *arg, const char *name, const float *x, size_t rows, size_t D, size_t ld);

struct tx_run {
    const struct tx_kernels *kernels;
    int threads;
    char *scratch;          /* threads x scratch_size bytes, one piece a worker */
    size_t scratch_size;    /* a multiple of TX_ALIGN */
    tx_tick *tick;          /* or NULL */
    void *tick_arg;
    /* 1 once tick said so: tasks that have not begun are left out, and what was computed since means nothing. */
    atomic_int *stopped;
    tx_tap *tap, *record;   /* or NULL; record: what each product takes, by its weight's name */
    void *tap_arg;
    struct tx_error *err;
};

static inline void *tx_run_scratch(const struct tx_run *run, int worker)
{
    return run->scratch + (size_t)worker * run->scratch_size;
}

/* Whether a task need not be done any more. Worker 0 is the calling thread, the one that may ask. */
static inline int tx_run_stopped(const struct tx_run *run, int worker)
{
    if (worker == 0 && run->tick && !atomic_load_explicit(run->stopped, memory_order_relaxed) && run->tick(run->tick_arg))
        atomic_store_explicit(run->stopped, 1, memory_order_relaxed);
    return atomic_load_explicit(run->stopped, memory_order_relaxed);
}

/* The same between blocks and at the end of a pass, as a status. */
static inline enum tx_status tx_run_tick(const struct tx_run *run)
{
    return tx_run_stopped(run, 0) ? tx_fail(run->err, TX_STOPPED, "stopped") : TX_OK;
}

/* The name is made from `format`, which has at most one %zu for `index`, only where someone watches. */
void tx_run_tap(const struct tx_run *run, const char *format, size_t index, const float *x, size_t rows, size_t D, size_t ld);

#endif
