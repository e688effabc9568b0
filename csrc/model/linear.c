/* y = epilogue(x W^T + b), cut into tiles that the pool's threads take.
 *
 * Own kernels: tiles of ROWS rows by a run of columns. An element's sum has one order whatever tile it falls into, so where the
 * borders lie never changes a bit, and they are free to follow the number of threads.
 *
 * BLAS (OpenBLAS, sgemm alone, one thread a call): its bits change with the shape of a call, so a call always takes the rows
 * of one image and a fixed run of columns. The sums go to scratch, since a residual may be the output itself. bfloat16 and int8
 * are widened to float32 there, BLOCK_K of K at a time: sums of so many products of int8 are exact in float32.
 */
#include "linear.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#ifdef TX_OPENBLAS
#include "cblas.h"
#endif

#include "../base/arena.h"
#include "../base/pool.h"
#include "int4.h"

enum {
    ROWS = 224,          /* of a tile where there are many */
    ROWS_FEW = 288,      /* up to so many stay together: a DiT's weights then come from memory once */
    COLUMNS_BLAS = 256,
    BLOCK_K = 1024,      /* of int8's products: 128 * 128 * 1024 = 2^24 */
    TILES_A_THREAD = 4,  /* so that a thread that starts late has less left to do */
    BESIDE_BYTES = 160 << 10, /* of what goes beside a product, fetched before it is multiplied: a part of L2 */
};

#ifdef SCIPY_OPENBLAS_PREFIX
#define BLAS(name) scipy_##name /* the wheel's, which no other package's takes the place of */
#else
#define BLAS(name) name
#endif

#ifdef TX_OPENBLAS
/* ---- OpenBLAS's memory ----
 *
 * It maps a buffer the first time that one call more runs at once than ever before, and ends the process where the system has
 * none. So whoever would be one more first asks the system for as much, and gives it back; where that is refused, it waits
 * until another call has ended. The first buffer is made when a weight is packed, where a lack can still be told. */

enum { BLAS_BUFFER = 96 << 20 }; /* 32 MB in the builds we have seen, and what goes with it */

static atomic_int blas_running, blas_most, blas_growing;

static void blas_after_fork(void)
{
    atomic_store(&blas_running, 0); /* the calls of other threads, which the child does not have */
    atomic_store(&blas_growing, 0);
}

static int blas_has_room(void)
{
    void *room = tx_alloc(BLAS_BUFFER);
    tx_free(room, BLAS_BUFFER);
    return room != NULL;
}

static void blas_begin(void)
{
    for (;;) {
        int running = atomic_load(&blas_running), growing = 0;
        const int most = atomic_load(&blas_most);
        if (running < most) {
            if (atomic_compare_exchange_weak(&blas_running, &running, running + 1))
                return;
        } else if (atomic_compare_exchange_strong(&blas_growing, &growing, 1)) {
            const int grows = atomic_load(&blas_most) == most && blas_has_room();
            if (grows)
                atomic_store(&blas_most, most + 1);
            atomic_store(&blas_growing, 0);
            if (!grows)
                sched_yield();
        } else {
            sched_yield();
        }
    }
}

static void blas_end(void)
{
    atomic_fetch_sub(&blas_running, 1);
}

/* OpenBLAS's first buffer, made now. */
static enum tx_status blas_warm(struct tx_error *err)
{
    const float one = 1;
    float product;
    if (atomic_load(&blas_most))
        return TX_OK;
    if (!blas_has_room())
        return tx_fail_memory(err, BLAS_BUFFER);
    blas_begin();
    BLAS(cblas_sgemm)(CblasRowMajor, CblasNoTrans, CblasTrans, 1, 1, 1, 1.0f, &one, 1, &one, 1, 0.0f, &product, 1);
    blas_end();
    return TX_OK;
}
#endif

static int blas_multiplies(const struct tx_kernels *k, enum tx_dtype dtype)
{
#ifdef TX_OPENBLAS
    return !k->gemm_f32_fast && dtype != TX_INT4;
#else
    (void)k;
    (void)dtype;
    return 0;
#endif
}

int tx_linear_bits_follow_rows(const struct tx_kernels *kernels, enum tx_dtype dtype)
{
    return blas_multiplies(kernels, dtype) && dtype != TX_INT8;
}

void tx_blas_init(void)
{
#ifdef TX_OPENBLAS
    BLAS(openblas_set_num_threads)(1);
    pthread_atfork(NULL, NULL, blas_after_fork);
#endif
}

const char *tx_blas_config(void)
{
#ifdef TX_OPENBLAS
    return BLAS(openblas_get_config)();
#else
    return "none";
#endif
}

void tx_linear_plan(struct tx_linear *linear, struct tx_arena *arena, const struct tx_kernels *k)
{
    const size_t N = linear->N, K = linear->K;
    linear->kernels = k;
    if (linear->dtype == TX_F32)
        linear->w = tx_arena_take(arena, k->gemm_f32_fast ? k->gemm_f32_packed(N, K) : N * K, sizeof(float));
    else if (linear->dtype == TX_BF16)
        linear->w = tx_arena_take(arena, k->gemm_bf16_packed(N, K), sizeof(uint16_t));
    else
        linear->w = tx_arena_take(arena, (linear->dtype == TX_INT8 ? k->gemm_int8_packed : k->gemm_int4_packed)(N, K), 1);
    linear->scale = tx_operand_dtype(linear->dtype) == TX_INT8 ? tx_arena_take(arena, N, sizeof(float)) : NULL;
    linear->columns = linear->by_column && linear->dtype == TX_INT8 ? tx_arena_take(arena, K * N, 1) : NULL;
}

/* ---- packing: a task takes some output rows, whole panels of them ---- */

enum { PACK_ROWS = 512 }; /* a multiple of every panel's width */

struct pack_job {
    struct tx_linear *linear;
    const struct tx_values *values;
    float *wide;            /* [N,K], where the values are not float32 and must become so */
    int8_t *narrow;         /* [N,K], where they must become int8, or be fitted; rows ld apart, then K */
    size_t ld;
    int fit;                /* whether gemm_int8_fit rounds those */
    uint8_t *rows, *group_scale; /* where they must become int4, as struct tx_values has it */
};

static const uint8_t *int4_row(const struct tx_values *v, size_t n, size_t K)
{
    return (const uint8_t *)v->data + n * tx_int4_row(K);
}

/* s q of an int4 weight. */
static int8_t byte_of_int4(const struct tx_values *v, size_t n, size_t k, size_t K)
{
    return (int8_t)(tx_int4_at(int4_row(v, n, K), k) * v->group_scale[n * tx_int4_groups(K) + k / TX_INT4_GROUP]);
}

static void widen_rows(const struct tx_values *v, size_t n0, size_t n1, size_t K, float *out)
{
    for (size_t n = n0; n < n1 && v->dtype != TX_INT4; n++)
        for (size_t i = n * K; i < (n + 1) * K; i++)
            out[i] = v->dtype == TX_F32    ? ((const float *)v->data)[i]
                     : v->dtype == TX_BF16 ? tx_float_of_bf16(((const uint16_t *)v->data)[i])
                                           : (float)((const int8_t *)v->data)[i] * v->scale[n];
    for (size_t n = n0; n < n1 && v->dtype == TX_INT4; n++)
        for (size_t k = 0; k < K; k++)
            out[n * K + k] = (float)byte_of_int4(v, n, k, K) * v->scale[n];
}

void tx_widen(float *out, const struct tx_values *values, size_t rows, size_t columns)
{
    widen_rows(values, 0, rows, columns, out);
}

static void make_task(void *arg, size_t task, int worker)
{
    (void)worker;
    const struct pack_job *job = arg;
    const struct tx_linear *l = job->linear;
    const size_t n0 = task * PACK_ROWS, n1 = tx_min(n0 + PACK_ROWS, l->N);
    if (job->wide)
        widen_rows(job->values, n0, n1, l->K, job->wide);
    const float *w = job->wide ? job->wide : job->values->data;
    if (l->dtype == TX_INT4) {
        for (size_t n = n0; n < n1; n++)
            tx_int4_quantize(job->rows + n * tx_int4_row(l->K), job->group_scale + n * tx_int4_groups(l->K), l->scale + n,
                             w + n * l->K, l->K);
    } else if (job->narrow && job->values->dtype == TX_INT8) {
        for (size_t n = n0; n < n1; n++)
            memcpy(job->narrow + n * job->ld, (const int8_t *)job->values->data + n * l->K, l->K);
    } else if (job->narrow && job->values->dtype == TX_INT4) {
        for (size_t n = n0; n < n1; n++)
            for (size_t k = 0; k < l->K; k++)
                job->narrow[n * job->ld + k] = byte_of_int4(job->values, n, k, l->K);
    } else if (job->narrow) {
        l->kernels->quantize_int8(job->narrow + n0 * job->ld, job->ld, l->scale + n0, w + n0 * l->K, 0, l->K, n1 - n0, l->K);
    }
}

/* Rows n0..n1 of w [N,K], turned. */
static void turn(int8_t *columns, const int8_t *w, size_t N, size_t K, size_t n0, size_t n1)
{
    enum { SIDE = 64 };
    for (size_t n = n0; n < n1; n += SIDE)
        for (size_t k = 0; k < K; k += SIDE)
            for (size_t i = n; i < tx_min(n + SIDE, n1); i++)
                for (size_t j = k; j < tx_min(k + SIDE, K); j++)
                    columns[j * N + i] = w[i * K + j];
}

static void pack_task(void *arg, size_t task, int worker)
{
    (void)worker;
    const struct pack_job *job = arg;
    const struct tx_linear *l = job->linear;
    const struct tx_kernels *k = l->kernels;
    const size_t n0 = task * PACK_ROWS, n1 = tx_min(n0 + PACK_ROWS, l->N);
    const void *w = job->narrow ? (const void *)job->narrow : job->wide ? (const void *)job->wide : job->values->data;
    if (job->fit)
        k->gemm_int8_fit(job->narrow + n0 * l->K, l->scale + n0, n1 - n0, l->K);
    if (l->dtype == TX_INT4)
        k->gemm_int4_pack(l->w, job->rows ? job->rows : job->values->data,
                          job->rows ? job->group_scale : job->values->group_scale, l->N, l->K, n0, n1);
    else if (l->dtype == TX_INT8)
        k->gemm_int8_pack(l->w, w, l->N, l->K, n0, n1);
    else if (l->dtype == TX_BF16)
        k->gemm_bf16_pack(l->w, w, l->N, l->K, n0, n1);
    else if (k->gemm_f32_fast)
        k->gemm_f32_pack(l->w, w, l->N, l->K, n0, n1);
    else
        memcpy((float *)l->w + n0 * l->K, (const float *)w + n0 * l->K, (n1 - n0) * l->K * sizeof(float));
    if (l->columns)
        turn(l->columns, w, l->N, l->K, n0, n1);
}

/* The weight [N,K], its columns divided by their largest numbers, by which fed_by's rows are multiplied: the same function. A
 * row's int8 then has digits for columns that are small because their inputs are large. NULL without memory. */
static float *evened(const struct tx_linear *l, const struct tx_values *values)
{
    float *w = tx_alloc((l->N + 1) * l->K * sizeof *w);
    if (!w)
        return NULL;
    float *largest = w + l->N * l->K, *scale = l->fed_by->scale + l->fed_by->N - l->K;
    widen_rows(values, 0, l->N, l->K, w);
    for (size_t k = 0; k < l->K; k++)
        largest[k] = 0;
    for (size_t n = 0; n < l->N; n++)
        for (size_t k = 0; k < l->K; k++)
            largest[k] = fmaxf(largest[k], fabsf(w[n * l->K + k]));
    for (size_t k = 0; k < l->K; k++) {
        largest[k] = largest[k] > 0 && isfinite(largest[k]) ? largest[k] : 1;
        scale[k] *= largest[k];
    }
    for (size_t n = 0; n < l->N; n++)
        for (size_t k = 0; k < l->K; k++)
            w[n * l->K + k] /= largest[k];
    return w;
}

static enum tx_status pack_values(struct tx_linear *l, const struct tx_values *values, int threads, struct tx_error *err)
{
    /* From integers to integers of no fewer bits the scales stay; float32 and bfloat16 multiply by them. */
    const int same = l->dtype == values->dtype && l->scale, kept = same || (l->dtype == TX_INT8 && values->dtype == TX_INT4);
    const size_t elements = l->N * l->K, tasks = (l->N + PACK_ROWS - 1) / PACK_ROWS;
    struct pack_job job = {.linear = l, .values = values, .ld = tx_k_padded(l->K)};
    job.fit = l->dtype == TX_INT8 && values->dtype != TX_INT4 && l->fit && l->kernels->gemm_int8_fit;
    const size_t wide = values->dtype != TX_F32 && !kept ? elements * sizeof(float) : 0;
    const size_t narrow = l->dtype == TX_INT8 && (!same || job.fit) ? l->N * job.ld : 0;
    const size_t rows = l->dtype == TX_INT4 && !same ? l->N * tx_int4_row(l->K) : 0;
    const size_t scales = rows ? l->N * tx_int4_groups(l->K) : 0;
    enum tx_status status = TX_OK;
#ifdef TX_OPENBLAS
    if (blas_multiplies(l->kernels, l->dtype))
        status = blas_warm(err);
#endif
    if (status == TX_OK && wide && !(job.wide = tx_alloc(wide)))
        status = tx_fail_memory(err, wide);
    if (status == TX_OK && narrow && !(job.narrow = tx_alloc(narrow)))
        status = tx_fail_memory(err, narrow);
    if (status == TX_OK && rows && (!(job.rows = tx_alloc(rows)) || !(job.group_scale = tx_alloc(scales))))
        status = tx_fail_memory(err, rows + scales);
    if (status == TX_OK) {
        if (kept)
            memcpy(l->scale, values->scale, l->N * sizeof *l->scale);
        if (wide || narrow || rows)
            tx_pool_run(threads, make_task, &job, tasks);
        for (size_t n = 1; narrow && n < l->N; n++)
            memmove(job.narrow + n * l->K, job.narrow + n * job.ld, l->K);
        tx_pool_run(threads, pack_task, &job, tasks);
    }
    tx_free(job.wide, wide);
    tx_free(job.narrow, narrow);
    tx_free(job.rows, rows);
    tx_free(job.group_scale, scales);
    return status;
}

enum tx_status tx_linear_pack(struct tx_linear *l, const struct tx_values *values, int threads, struct tx_error *err)
{
    if (!l->fed_by || l->dtype != TX_INT8 || values->dtype == TX_INT8)
        return pack_values(l, values, threads, err);
    float *even = evened(l, values);
    if (!even)
        return tx_fail_memory(err, (l->N + 1) * l->K * sizeof *even);
    const enum tx_status status = pack_values(l, &(struct tx_values){.data = even, .dtype = TX_F32}, threads, err);
    tx_free(even, (l->N + 1) * l->K * sizeof *even);
    return status;
}

void tx_linear_unpack(const struct tx_linear *l, void *data, float *scale, uint8_t *group_scale)
{
    const struct tx_kernels *k = l->kernels;
    if (l->scale)
        memcpy(scale, l->scale, l->N * sizeof *scale);
    if (l->dtype == TX_INT4)
        k->gemm_int4_unpack(data, group_scale, l->w, l->N, l->K);
    else if (l->dtype == TX_INT8)
        k->gemm_int8_unpack(data, l->w, l->N, l->K);
    else if (l->dtype == TX_BF16)
        k->gemm_bf16_unpack(data, l->w, l->N, l->K);
    else if (k->gemm_f32_fast)
        k->gemm_f32_unpack(data, l->w, l->N, l->K);
    else
        memcpy(data, l->w, l->N * l->K * sizeof(float));
}

size_t tx_linear_own_scratch(const struct tx_linear *linear)
{
    return linear->dtype == TX_INT4 ? linear->kernels->gemm_int4_scratch(linear->K) : 0;
}

size_t tx_linear_scratch(const struct tx_kernels *kernels, size_t longest_segment)
{
    const size_t floats = 2 * longest_segment * COLUMNS_BLAS + (longest_segment + COLUMNS_BLAS) * BLOCK_K;
    return kernels->gemm_f32_fast ? 0 : floats * sizeof(float); /* sums_of_narrow */
}

struct job {
    const struct tx_run *run;
    const struct tx_linear *linear;
    struct tx_mat out, a;
    struct tx_epilogue_f32 epilogue;
    const struct tx_seq *seq;
    size_t M, rows, row_tiles;      /* all rows; of a tile; tiles of rows */
    size_t panels, runs, panel;     /* the panels of W in so many runs, and their width */
    size_t columns;                 /* BLAS: of a tile */
    const struct tx_beside *beside; /* or NULL */
};

static size_t panel_width(const struct tx_linear *l)
{
    const struct tx_kernels *k = l->kernels;
    return l->dtype == TX_F32    ? k->gemm_f32_nr
           : l->dtype == TX_BF16 ? k->gemm_bf16_nr
           : l->dtype == TX_INT8 ? k->gemm_int8_nr
                                 : k->gemm_int4_nr;
}

static size_t panels_of(const struct tx_linear *l)
{
    return (l->N + panel_width(l) - 1) / panel_width(l);
}

static const char *panel_at(const struct tx_linear *l, size_t panel)
{
    const size_t K = l->dtype == TX_F32 ? l->K : tx_k_padded(l->K);
    if (l->dtype == TX_INT4)
        return (const char *)l->w + panel * l->kernels->gemm_int4_packed(panel_width(l), l->K);
    return (const char *)l->w + panel * panel_width(l) * K * tx_dtype_size(l->dtype);
}

static void cut_columns(struct job *job, const struct tx_linear *l, int threads)
{
    job->panel = panel_width(l);
    job->panels = panels_of(l);
    /* As even as whole panels allow, and as many runs for each thread: a product is as long as its slowest thread. */
    const size_t count = (size_t)threads, wanted = (count * TILES_A_THREAD + job->row_tiles - 1) / job->row_tiles;
    job->runs = tx_min(job->panels, (wanted + count - 1) / count * count);
}

/* Where this thread reads on after a run of columns: behind it, or, if it is the last of a share, where the same rows' next
 * product begins. */
static const char *read_next(const struct job *job, size_t run, int worker)
{
    const struct tx_linear *next = job->linear->next;
    const int threads = job->run->threads;
    int last = 0;
    for (int i = 1; i <= threads; i++)
        last |= run + 1 == tx_pool_share(job->runs, threads, i);
    if (job->row_tiles > 1)
        return NULL;
    if (!last)
        return panel_at(job->linear, job->panels * (run + 1) / job->runs);
    if (!next)
        return NULL;
    struct job then = {.row_tiles = 1};
    cut_columns(&then, next, threads);
    return panel_at(next, then.panels * tx_pool_share(then.runs, threads, worker) / then.runs);
}

/* The same epilogue for rows from r on. */
static struct tx_epilogue_f32 epilogue_at(const struct tx_epilogue_f32 *e, size_t r)
{
    struct tx_epilogue_f32 at = *e;
    if (at.residual)
        at.residual += r * at.ldr;
    if (at.group)
        at.group += r;
    return at;
}

/* M rows by panels p0..p1. */
static void multiply(const struct tx_run *run, int worker, const struct tx_linear *l, struct tx_mat out, struct tx_mat a,
                     size_t M, size_t p0, size_t p1, const struct tx_epilogue_f32 *epilogue, const struct tx_fetch *fetch)
{
    const size_t n0 = p0 * panel_width(l), n1 = tx_min(p1 * panel_width(l), l->N);
    if (n0 >= n1)
        return;
    if (l->dtype == TX_F32) {
        run->kernels->gemm_f32(&(struct tx_gemm_f32){.out = out.data, .ldo = out.ld, .a = a.data, .lda = a.ld, .w = l->w,
                                                     .M = M, .N = l->N, .K = l->K, .n0 = n0, .n1 = n1, .epilogue = *epilogue,
                                                     .fetch = *fetch});
        return;
    }
    const struct tx_gemm_narrow job = {.out = out.data, .ldo = out.ld, .out_bf16 = out.dtype == TX_BF16, .a = a.data,
                                       .lda = a.ld, .a_scale = a.scale, .w = l->w, .w_scale = l->scale, .M = M, .N = l->N,
                                       .K = l->K, .n0 = n0, .n1 = n1, .epilogue = *epilogue, .fetch = *fetch,
                                       .scratch = l->dtype == TX_INT4 ? tx_run_scratch(run, worker) : NULL};
    if (l->dtype == TX_BF16)
        run->kernels->gemm_bf16(&job);
    else if (l->dtype == TX_INT8)
        run->kernels->gemm_int8(&job);
    else
        run->kernels->gemm_int4(&job);
}

static void own_task(void *arg, size_t task, int worker)
{
    const struct job *job = arg;
    const struct tx_linear *l = job->linear;
    if (tx_run_stopped(job->run, worker))
        return;
    const size_t r0 = task % job->row_tiles * job->rows, run = task / job->row_tiles, M = tx_min(job->rows, job->M - r0);
    const size_t p0 = job->panels * run / job->runs, p1 = job->panels * (run + 1) / job->runs;
    const struct tx_mat out = tx_mat_at(job->out, r0, 0), a = tx_mat_at(job->a, r0, 0);
    const struct tx_epilogue_f32 epilogue = epilogue_at(&job->epilogue, r0);
    const char *next = read_next(job, run, worker);
    const struct tx_beside *b = r0 == 0 ? job->beside : NULL;
    if (!b) {
        multiply(job->run, worker, l, out, a, M, p0, p1, &epilogue, &(struct tx_fetch){.next = next});
        return;
    }
    /* This run's share of what goes beside, in pieces that L2 holds until they are multiplied. */
    const size_t all = panels_of(b->linear), b0 = all * b->from / b->of, count = all * b->to / b->of - b0;
    const size_t q0 = b0 + count * run / job->runs, q1 = b0 + count * (run + 1) / job->runs;
    const size_t bytes = (size_t)(panel_at(b->linear, q1) - panel_at(b->linear, q0));
    const size_t pieces = tx_max(1, tx_min((bytes + BESIDE_BYTES - 1) / BESIDE_BYTES, p1 - p0));
    const struct tx_epilogue_f32 plain = {.bias = b->linear->bias};
    for (size_t i = 0; i < pieces; i++) {
        const size_t p = p0 + (p1 - p0) * i / pieces, q = q0 + (q1 - q0) * i / pieces;
        const size_t p_end = p0 + (p1 - p0) * (i + 1) / pieces, q_end = q0 + (q1 - q0) * (i + 1) / pieces;
        const char *at = panel_at(b->linear, q);
        multiply(job->run, worker, l, out, a, M, p, p_end, &epilogue, &(struct tx_fetch){
            .next = i + 1 < pieces ? panel_at(l, p_end) : next,
            .beside = at, .beside_bytes = (size_t)(panel_at(b->linear, q_end) - at)});
        multiply(job->run, worker, b->linear, b->out, b->a, b->rows, q, q_end, &plain, &(struct tx_fetch){0});
    }
}

#ifdef TX_OPENBLAS
/* sums[rows,columns] = [+=] a w^T, with rows of sums COLUMNS_BLAS apart. */
static void sgemm(float *sums, const float *a, size_t lda, const float *w, size_t ldw, size_t rows, size_t columns, size_t K,
                  int adds)
{
    blas_begin();
    BLAS(cblas_sgemm)(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)columns, (int)K, 1.0f, a, (int)lda, w, (int)ldw,
                      adds ? 1.0f : 0.0f, sums, COLUMNS_BLAS);
    blas_end();
}

/* to[rows,count] of rows `ld` apart, bfloat16 or int8. */
static void widen_block(float *to, enum tx_dtype dtype, const void *from, size_t ld, size_t rows, size_t count)
{
    for (size_t r = 0; r < rows; r++, to += count) {
        const uint16_t *bf16 = (const uint16_t *)from + r * ld;
        const int8_t *int8 = (const int8_t *)from + r * ld;
        for (size_t k = 0; k < count && dtype == TX_BF16; k++)
            to[k] = tx_float_of_bf16(bf16[k]);
        for (size_t k = 0; k < count && dtype == TX_INT8; k++)
            to[k] = int8[k];
    }
}

/* The sums, scaled, of rows of `a` with columns n0.. of a weight in bfloat16 or int8, which lies as gemm_bf16_ref has it.
 * Behind `sums` in scratch: sums in int32, and a block of either factor. */
static void sums_of_narrow(float *sums, const struct tx_linear *l, struct tx_mat a, size_t n0, size_t rows, size_t columns)
{
    const size_t size = tx_dtype_size(l->dtype), Kp = tx_k_padded(l->K);
    int32_t *exact = (int32_t *)(sums + rows * COLUMNS_BLAS);
    float *a_wide = sums + 2 * rows * COLUMNS_BLAS, *w_wide = a_wide + rows * BLOCK_K;
    const int integers = l->dtype == TX_INT8;
    for (size_t k = 0; k < l->K; k += BLOCK_K) {
        const size_t count = tx_min(BLOCK_K, l->K - k);
        widen_block(a_wide, l->dtype, (const char *)a.data + k * size, a.ld, rows, count);
        widen_block(w_wide, l->dtype, (const char *)l->w + (n0 * Kp + k) * size, Kp, columns, count);
        sgemm(sums, a_wide, count, w_wide, count, rows, columns, count, k && !integers);
        for (size_t m = 0; integers && m < rows; m++)
            for (size_t n = m * COLUMNS_BLAS; n < m * COLUMNS_BLAS + columns; n++)
                exact[n] = (k ? exact[n] : 0) + (int32_t)sums[n];
    }
    for (size_t m = 0; integers && m < rows; m++)
        for (size_t n = 0; n < columns; n++)
            sums[m * COLUMNS_BLAS + n] = (float)exact[m * COLUMNS_BLAS + n] * (a.scale[m] * l->scale[n0 + n]);
}

static void blas_task(void *arg, size_t task, int worker)
{
    const struct job *job = arg;
    const struct tx_linear *l = job->linear;
    const size_t image = task % job->row_tiles, n0 = task / job->row_tiles * job->columns;
    const size_t r0 = job->seq->start[image], rows = tx_seq_length(job->seq, image), columns = tx_min(job->columns, l->N - n0);
    float *sums = tx_run_scratch(job->run, worker);
    if (!rows || tx_run_stopped(job->run, worker))
        return;
    const struct tx_mat a = tx_mat_at(job->a, r0, 0);
    if (l->dtype == TX_F32)
        sgemm(sums, a.data, a.ld, (const float *)l->w + n0 * l->K, l->K, rows, columns, l->K, 0);
    else
        sums_of_narrow(sums, l, a, n0, rows, columns);
    struct tx_epilogue_f32 e = epilogue_at(&job->epilogue, r0);
    e.bias = e.bias ? e.bias + n0 : NULL;
    e.residual = e.residual ? e.residual + n0 : NULL;
    e.gate = e.gate ? e.gate + n0 : NULL;
    const struct tx_mat out = tx_mat_at(job->out, r0, n0);
    const int narrow = out.dtype == TX_BF16;
    job->run->kernels->epilogue_f32(narrow ? sums : out.data, narrow ? COLUMNS_BLAS : out.ld, sums, COLUMNS_BLAS, rows, columns,
                                    &e);
    for (size_t m = 0; narrow && m < rows; m++)
        for (size_t n = 0; n < columns; n++)
            ((uint16_t *)out.data)[m * out.ld + n] = tx_bf16_of_float(sums[m * COLUMNS_BLAS + n]);
}
#endif

int tx_linear_beside(const struct tx_kernels *k, enum tx_dtype dtype)
{
    return dtype == TX_F32    ? k->gemm_f32_beside
           : dtype == TX_BF16 ? k->gemm_bf16_beside
           : dtype == TX_INT8 ? k->gemm_int8_beside
                              : 0; /* what is beside an int4 product is its own next columns */
}

static void record(const struct tx_run *run, const struct tx_linear *l, struct tx_mat a, size_t rows)
{
    if (run->record && a.dtype == TX_F32)
        run->record(run->tap_arg, l->name, a.data, rows, l->K, a.ld);
}

void tx_linear_run(const struct tx_run *run, const struct tx_linear *linear, struct tx_mat out, struct tx_mat a,
                   const struct tx_seq *seq, const struct tx_epilogue_f32 *epilogue)
{
    tx_linear_run_beside(run, linear, out, a, seq, epilogue, NULL);
}

void tx_linear_run_beside(const struct tx_run *run, const struct tx_linear *linear, struct tx_mat out, struct tx_mat a,
                          const struct tx_seq *seq, const struct tx_epilogue_f32 *epilogue, const struct tx_beside *beside)
{
    struct job job = {.run = run, .linear = linear, .out = out, .a = a, .seq = seq, .M = tx_seq_rows(seq), .beside = beside};
    if (!job.M)
        return;
    record(run, linear, a, job.M);
    if (beside && beside->from == 0)
        record(run, beside->linear, beside->a, beside->rows);
    if (epilogue)
        job.epilogue = *epilogue;
    job.epilogue.bias = linear->bias;
#ifdef TX_OPENBLAS
    if (blas_multiplies(run->kernels, linear->dtype)) {
        job.columns = COLUMNS_BLAS;
        job.row_tiles = seq->images;
        tx_pool_run(run->threads, blas_task, &job, job.row_tiles * ((linear->N + job.columns - 1) / job.columns));
        return;
    }
#endif
    job.rows = job.M <= ROWS_FEW ? job.M : ROWS;
    job.row_tiles = (job.M + job.rows - 1) / job.rows;
    cut_columns(&job, linear, run->threads);
    tx_pool_run(run->threads, own_task, &job, job.row_tiles * job.runs);
}

/* ---- into the dtype of a product ---- */

enum { CONVERT_ROWS = 16 };

struct convert_job {
    const struct tx_run *run;
    struct tx_mat to, from;
    size_t rows, D;
};

static void convert_task(void *arg, size_t task, int worker)
{
    (void)worker;
    const struct convert_job *job = arg;
    const size_t r0 = task * CONVERT_ROWS, rows = tx_min(CONVERT_ROWS, job->rows - r0);
    const struct tx_mat to = tx_mat_at(job->to, r0, 0), from = tx_mat_at(job->from, r0, 0);
    if (to.dtype == TX_INT8)
        job->run->kernels->quantize_int8(to.data, to.ld, to.scale, from.data, from.dtype == TX_BF16, from.ld, rows, job->D);
    else
        job->run->kernels->round_bf16(to.data, to.ld, from.data, from.ld, rows, job->D);
}

void tx_convert_run(const struct tx_run *run, struct tx_mat to, struct tx_mat from, size_t rows, size_t D)
{
    struct convert_job job = {run, to, from, rows, D};
    tx_pool_run(run->threads, convert_task, &job, (rows + CONVERT_ROWS - 1) / CONVERT_ROWS);
}
