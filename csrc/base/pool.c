/* Workers are started when first needed and then wait for a job that they are wanted for: they look for a little while (a model
 * runs hundreds of short jobs in a row) and then sleep, each on a condition of its own (macOS has no unnamed
 * semaphores). The caller takes tasks as they do. Each begins with a share of its own: so a thread reads weights in one run,
 * and finds in its cache what it wrote there in the job before.
 *
 * A job is nobody's but its caller's: a worker may come to it or not. While it is open, a worker whose index is below the job's
 * threads may enter; once the caller has no task left to take it closes the job, and waits for those only that are inside, each
 * of which has a task in hand. A worker that never got a core in time holds up nothing. */
#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "cpu.h"

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() ({ __asm__ volatile("yield"); })
#else
#define PAUSE() ((void)0)
#endif

enum { SPIN_NS = 100000 }; /* how long an idle worker looks before it sleeps */

/* The gate: the number of the job, the threads that may take part (0: closed) and the workers inside, in one word, so that
 * entering (inside + 1 while open) and closing (threads = 0) cannot cross. A job's number says to a worker whether it has been
 * there already. */
enum { THREADS_AT = 10, JOB_AT = 20, FIELD = 1023 };
_Static_assert((int)TX_MAX_THREADS <= (int)FIELD, "the gate has no room for so many");

static inline int inside(uint64_t gate)
{
    return (int)(gate & FIELD);
}

static inline int threads_of(uint64_t gate)
{
    return (int)(gate >> THREADS_AT & FIELD);
}

static inline uint64_t job_of(uint64_t gate)
{
    return gate >> JOB_AT;
}

struct worker {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int posted;                 /* under the lock */
    _Atomic int asleep;         /* whoever turns 1 into 0 decides: the caller posts `wake`, the worker stays up */
};

static struct {
    pthread_mutex_t busy;       /* held by the caller whose job runs */
    int started;                /* workers that exist: 1..started */
    /* The job: written while nobody is inside, read by who entered. */
    tx_task *task;
    void *arg;
    int threads;
    _Alignas(64) _Atomic uint64_t gate;
    struct share {
        _Alignas(64) _Atomic size_t next; /* the next task to take; apart from the gate, which idle workers look at */
        size_t end;
    } shares[TX_MAX_THREADS];
    struct worker workers[TX_MAX_THREADS]; /* [0] is the caller's index */
} pool = {.busy = PTHREAD_MUTEX_INITIALIZER};

static _Atomic int chosen;      /* by tx_pool_set_threads; 0: not */
static int limit;               /* that the environment and the cgroup set */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Whether this thread is the caller whose job runs. */
static _Thread_local int in_job;

/* A caller may fork in the middle of its job: the tick runs handlers of signals, which are Python's. Both processes then end
 * that job alone. So no worker may have a task in hand, which the child would lose: nobody enters any more, and who is inside
 * is waited for. A thread that is in no job forks at once, and nobody in the child waits for a job of another. */
static void before_fork(void)
{
    if (!in_job)
        return;
    atomic_fetch_and_explicit(&pool.gate, ~((uint64_t)FIELD << THREADS_AT), memory_order_relaxed);
    while (inside(atomic_load_explicit(&pool.gate, memory_order_acquire)) > 0)
        sched_yield();
}

/* After fork only the forking thread lives: the child starts with no workers, and unless that thread is in a job, with no job
 * and an unlocked lock. In a job it has the lock still, so that a call from within leaves that job alone. */
static void after_fork_in_child(void)
{
    if (!in_job)
        pthread_mutex_init(&pool.busy, NULL);
    pool.started = 0;
    atomic_store(&pool.gate, 0);
}

static int threads_from(const char *name)
{
    const char *text = getenv(name);
    const long n = text ? strtol(text, NULL, 10) : 0;
    return n >= 1 && n <= TX_MAX_THREADS ? (int)n : 0;
}

static void set_up(void)
{
    int asked = threads_from("TEXTOK_NUM_THREADS");
    if (!asked)
        asked = threads_from("OMP_NUM_THREADS");
    const int quota = tx_cpu_quota("");
    limit = asked ? asked : TX_MAX_THREADS;
    if (quota && quota < limit)
        limit = quota;
    pthread_atfork(before_fork, NULL, after_fork_in_child);
}

int tx_pool_threads(void)
{
    pthread_once(&once, set_up);
    const int n = atomic_load(&chosen);
    if (n)
        return n;
    const int cpus = tx_cpu_affinity(); /* which may change at any time, in a forked worker say */
    return cpus < limit ? cpus : limit;
}

void tx_pool_set_threads(int n)
{
    pthread_once(&once, set_up);
    atomic_store(&chosen, n < 1 ? 1 : n > TX_MAX_THREADS ? TX_MAX_THREADS : n);
}

static void post(struct worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    worker->posted = 1;
    pthread_cond_signal(&worker->wake);
    pthread_mutex_unlock(&worker->lock);
}

static void wait_for_post(struct worker *self)
{
    pthread_mutex_lock(&self->lock);
    while (!self->posted)
        pthread_cond_wait(&self->wake, &self->lock);
    self->posted = 0;
    pthread_mutex_unlock(&self->lock);
}

static void take_tasks(int worker)
{
    for (int other = 0; other < pool.threads; other++) {
        struct share *share = &pool.shares[(worker + other) % pool.threads];
        size_t i; /* relaxed: the counter only deals out numbers; what a task reads came through the gate */
        while ((i = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed)) < share->end)
            pool.task(pool.arg, i, worker);
    }
}

static long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static inline int wanted(uint64_t gate, int worker, uint64_t last)
{
    return worker < threads_of(gate) && job_of(gate) != last;
}

/* A gate through which this worker may go, as it was a moment ago. `last` is the job it was in before. */
static uint64_t wait_for_job(struct worker *self, int worker, uint64_t last)
{
    for (;;) {
        const long long until = now_ns() + SPIN_NS;
        do {
            for (int i = 0; i < 64; i++) {
                /* relaxed: nothing is read on the strength of it before the gate was entered */
                const uint64_t gate = atomic_load_explicit(&pool.gate, memory_order_relaxed);
                if (wanted(gate, worker, last))
                    return gate;
                PAUSE();
            }
        } while (now_ns() < until);
        /* The worker says that it sleeps, then looks at the gate; the caller opens the gate, then looks who sleeps. All four
         * are sequentially consistent, so at least one sees the other's: no job goes by unnoticed. */
        atomic_store(&self->asleep, 1);
        const uint64_t gate = atomic_load(&pool.gate);
        if (wanted(gate, worker, last) && atomic_exchange(&self->asleep, 0))
            return gate;
        wait_for_post(self);
    }
}

static void *worker_main(void *arg)
{
    struct worker *self = arg;
    const int worker = (int)(self - pool.workers);
    for (uint64_t last = 0;;) {
        uint64_t gate = wait_for_job(self, worker, last);
        /* Fails where another came or went, or the job was closed or is another: then look again. Acquire: the job's fields
         * were written before the gate was opened, and what others did to the gate since only adds to that release. */
        if (!atomic_compare_exchange_weak_explicit(&pool.gate, &gate, gate + 1, memory_order_acquire, memory_order_relaxed))
            continue;
        last = job_of(gate);
        take_tasks(worker);
        /* Release: the caller, who waits for it, sees what the tasks wrote, and may write the next job's fields. */
        atomic_fetch_sub_explicit(&pool.gate, 1, memory_order_release);
    }
    return NULL;
}

/* Signals are for Python's threads: a worker blocks all but those that its own instructions raise, which a handler should
 * see. */
static void start_workers(int wanted)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    sigset_t blocked, old;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        sigdelset(&blocked, own[i]);
    /* Kernels keep up to 128 KB on the stack, which is all that a thread has by default where libc is musl. */
    enum { LEAST_STACK = 1 << 20 };
    pthread_attr_t attributes;
    size_t stack;
    pthread_attr_init(&attributes);
    if (pthread_attr_getstacksize(&attributes, &stack) == 0 && stack < LEAST_STACK)
        pthread_attr_setstacksize(&attributes, LEAST_STACK);
    pthread_sigmask(SIG_SETMASK, &blocked, &old);
    while (pool.started < wanted) {
        struct worker *worker = &pool.workers[pool.started + 1];
        pthread_t thread;
        pthread_mutex_init(&worker->lock, NULL);
        pthread_cond_init(&worker->wake, NULL);
        worker->posted = 0;
        atomic_store(&worker->asleep, 0);
        if (pthread_create(&thread, &attributes, worker_main, worker) != 0)
            break;
        pthread_detach(thread);
        pool.started++;
    }
    pthread_attr_destroy(&attributes);
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
    if (pool.started < threads - 1)
        start_workers(threads - 1);
    /* The gate is closed and nobody is inside: these are the caller's alone until it opens. */
    pool.task = task;
    pool.arg = arg;
    pool.threads = threads;
    for (int i = 0; i < threads; i++) {
        atomic_store_explicit(&pool.shares[i].next, tx_pool_share(count, threads, i), memory_order_relaxed);
        pool.shares[i].end = tx_pool_share(count, threads, i + 1);
    }
    const uint64_t job = job_of(atomic_load_explicit(&pool.gate, memory_order_relaxed)) + 1;
    atomic_store(&pool.gate, job << JOB_AT | (uint64_t)threads << THREADS_AT); /* releases the fields; see wait_for_job */
    for (int i = 1; i < threads && i <= pool.started; i++)
        if (atomic_load(&pool.workers[i].asleep) && atomic_exchange(&pool.workers[i].asleep, 0))
            post(&pool.workers[i]);
    in_job = 1;
    take_tasks(0);
    in_job = 0;
    /* Close. Relaxed: it passes nothing on, and no worker can enter after it, since entering changes the word only as it
     * was. */
    atomic_fetch_and_explicit(&pool.gate, ~((uint64_t)FIELD << THREADS_AT), memory_order_relaxed);
    /* Acquire: what those who left have written, all of them, since each leaving continues the release of those before. A
     * worker inside may have lost its core to another process: then give way rather than spin against it. */
    for (unsigned spins = 1; inside(atomic_load_explicit(&pool.gate, memory_order_acquire)) > 0; spins++)
        spins % 1024 ? PAUSE() : (void)sched_yield();
    pthread_mutex_unlock(&pool.busy);
}
