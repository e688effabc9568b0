/* A small pthread pool: one job at a time, its tasks handed out by counters. */
#ifndef TX_POOL_H
#define TX_POOL_H

#include <stddef.h>

enum { TX_MAX_THREADS = 256 };

/* One task of a job. `worker` (0..threads-1) is unique among the tasks that run at the same time: an index for scratch
 * memory. */
typedef void tx_task(void *arg, size_t task, int worker);

/* Threads a job may use by default: TEXTOK_NUM_THREADS or OMP_NUM_THREADS where set, never more than the cgroup's quota and the
 * CPUs that the calling thread may now use, unless set by the function below. */
int tx_pool_threads(void);
void tx_pool_set_threads(int n);

/* Run tasks 0..count-1 on at most `threads` threads (up to TX_MAX_THREADS), the caller among them, and return when all are
 * done. Each begins with a share of its own, in order, and then helps the others: which thread runs which task is open, so
 * tasks must not depend on each other; a thread that gets no core in time is not waited for. Where another caller has the pool
 * (a second Python thread, a task of its own), or no thread can be started, the caller runs them all, in order. */
void tx_pool_run(int threads, tx_task *task, void *arg, size_t count);

/* Where a worker's share of `count` tasks begins; it ends where the next worker's begins. */
static inline size_t tx_pool_share(size_t count, int threads, int worker)
{
    return count * (size_t)worker / (size_t)threads;
}

#endif
