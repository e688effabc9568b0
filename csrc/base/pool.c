/* Workers are started when first needed and then wait for the next job: they look at the job number for a little while (a model runs
 * hundreds of short jobs in a row) and then sleep on a condition. The caller takes tasks as they do. Each begins with tasks of its own, so
 * that a thread reads memory in one run and finds in its cache what it wrote there in the job before. */
#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "cpu.h"

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() ((void)0)
#endif

enum { SPIN_NS = 100000 }; /* how long an idle worker looks before it sleeps */

static struct {
    pthread_mutex_t busy;       /* held by the caller whose job runs */
    pthread_mutex_t lock;       /* guards sleeping and waking */
    pthread_cond_t wake;
    int started;                /* workers that exist: indices 1..started */
    int sleeping;
    tx_task *task;
    void *arg;
    int threads;                /* workers with index < threads take part */
    struct share {
        _Atomic size_t next;    /* the next task to take */
        size_t end;
    } __attribute__((aligned(64))) shares[TX_MAX_THREADS];
    _Atomic unsigned job;       /* number of the job; a change is the signal to start */
    _Atomic int running;        /* workers that have not yet left the job */
} pool = {.busy = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static _Atomic int default_threads;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* After fork only the forking thread lives: the child starts with no workers and unlocked locks. */
static void after_fork_in_child(void)
{
    pthread_mutex_init(&pool.busy, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pool.started = pool.sleeping = 0;
    atomic_store(&pool.running, 0);
}

static int threads_from(const char *name)
{
    const char *text = getenv(name);
    const long n = text ? strtol(text, NULL, 10) : 0;
    return n >= 1 && n <= TX_MAX_THREADS ? (int)n : 0;
}

static void set_up(void)
{
    int n = tx_cpu_count();
    int asked = threads_from("TEXTOK_NUM_THREADS");
    if (!asked)
        asked = threads_from("OMP_NUM_THREADS");
    if (asked && asked < n)
        n = asked;
    if (!atomic_load(&default_threads))
        atomic_store(&default_threads, n < TX_MAX_THREADS ? n : TX_MAX_THREADS);
    pthread_atfork(NULL, NULL, after_fork_in_child);
}

int tx_pool_threads(void)
{
    pthread_once(&once, set_up);
    return atomic_load(&default_threads);
}

void tx_pool_set_threads(int n)
{
    pthread_once(&once, set_up);
    atomic_store(&default_threads, n < 1 ? 1 : n > TX_MAX_THREADS ? TX_MAX_THREADS : n);
}

static void take_tasks(int worker)
{
    for (int other = 0; other < pool.threads; other++) {
        struct share *share = &pool.shares[(worker + other) % pool.threads];
        size_t i;
        while ((i = atomic_fetch_add(&share->next, 1)) < share->end)
            pool.task(pool.arg, i, worker);
    }
}

static long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void wait_for_job_after(unsigned seen)
{
    const long long until = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(&pool.job, memory_order_acquire) != seen)
                return;
            PAUSE();
        }
    } while (now_ns() < until);
    pthread_mutex_lock(&pool.lock);
    while (atomic_load(&pool.job) == seen) {
        pool.sleeping++;
        pthread_cond_wait(&pool.wake, &pool.lock);
        pool.sleeping--;
    }
    pthread_mutex_unlock(&pool.lock);
}

struct birth {
    int worker;
    unsigned seen;
};

static void *worker_main(void *arg)
{
    const struct birth birth = *(struct birth *)arg;
    free(arg);
    unsigned seen = birth.seen;
    for (;;) {
        wait_for_job_after(seen);
        seen = atomic_load(&pool.job);
        if (birth.worker < pool.threads)
            take_tasks(birth.worker);
        atomic_fetch_sub(&pool.running, 1);
    }
    return NULL;
}

/* Signals are for Python's threads: a worker blocks all. */
static void start_workers(int wanted)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (pool.started < wanted) {
        struct birth *birth = malloc(sizeof *birth);
        pthread_t thread;
        if (!birth)
            break;
        *birth = (struct birth){pool.started + 1, atomic_load(&pool.job)};
        if (pthread_create(&thread, NULL, worker_main, birth) != 0) {
            free(birth);
            break;
        }
        pthread_detach(thread);
        pool.started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void tx_pool_run(int threads, tx_task *task, void *arg, size_t count)
{
    pthread_once(&once, set_up);
    if ((size_t)threads > count)
        threads = (int)count;
    if (threads <= 1 || pthread_mutex_trylock(&pool.busy) != 0) {
        for (size_t i = 0; i < count; i++)
            task(arg, i, 0);
        return;
    }
    start_workers(threads - 1);
    pool.task = task;
    pool.arg = arg;
    pool.threads = threads;
    for (int i = 0; i < threads; i++) {
        atomic_store(&pool.shares[i].next, tx_pool_share(count, threads, i));
        pool.shares[i].end = tx_pool_share(count, threads, i + 1);
    }
    atomic_store(&pool.running, pool.started);
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.job, 1);
    if (pool.sleeping)
        pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    take_tasks(0);
    /* A worker that is due may have lost its core to another process: then give way rather than spin against it. */
    for (unsigned spins = 1; atomic_load_explicit(&pool.running, memory_order_acquire) > 0; spins++)
        spins % 1024 ? PAUSE() : (void)sched_yield();
    pthread_mutex_unlock(&pool.busy);
}
