/* y = epilogue(x W^T + b), cut into tiles that the pool's threads take.
 *
 * Own kernels: tiles of ROWS rows by a run of columns. An element's sum has one order whatever tile it falls into, so where the
 * borders lie never changes a bit, and they are free to follow the number of threads.
 *
 * BLAS (OpenBLAS, one thread a call): its bits change with the shape of a call, so a call always takes the rows of one image
 * and a fixed run of columns. The sums go to scratch, since a residual may be the output itself.
 */
#include "linear.h"

#include <string.h>

#include "cblas.h"

#include "../base/pool.h"

enum {
    ROWS = 224,          /* a multiple of every kernel's rows at a time: 16 x 14 */
    COLUMNS_BLAS = 256,
    TILES_A_THREAD = 4,  /* so that a thread that starts late has less left to do */
    PACK_COLUMNS = 512,
};

void tx_blas_init(void)
{
    scipy_openblas_set_num_threads(1);
}

const char *tx_blas_config(void)
{
    return scipy_openblas_get_config();
}

size_t tx_linear_packed(const struct tx_kernels *kernels, size_t N, size_t K)
{
    return kernels->gemm_f32_fast ? kernels->gemm_f32_packed(N, K) : N * K;
}

struct pack_job {
    struct tx_linear *linear;
    const float *w;
    size_t columns;
};

static void pack_task(void *arg, size_t task, int worker)
{
    (void)worker;
    const struct pack_job *job = arg;
    const size_t n0 = task * job->columns, n1 = tx_min(n0 + job->columns, job->linear->N);
    job->linear->kernels->gemm_f32_pack(job->linear->w, job->w, job->linear->N, job->linear->K, n0, n1);
}

void tx_linear_pack(struct tx_linear *linear, const float *w, int threads)
{
    const struct tx_kernels *k = linear->kernels;
    if (!k->gemm_f32_fast) {
        memcpy(linear->w, w, linear->N * linear->K * sizeof *w);
        return;
    }
    struct pack_job job = {linear, w, tx_round_up(PACK_COLUMNS, k->gemm_f32_nr)};
    tx_pool_run(threads, pack_task, &job, (linear->N + job.columns - 1) / job.columns);
}

void tx_linear_unpack(const struct tx_linear *linear, float *w)
{
    if (linear->kernels->gemm_f32_fast)
        linear->kernels->gemm_f32_unpack(w, linear->w, linear->N, linear->K);
    else
        memcpy(w, linear->w, linear->N * linear->K * sizeof *w);
}

size_t tx_linear_scratch(const struct tx_kernels *kernels, size_t longest_segment)
{
    return kernels->gemm_f32_fast ? 0 : longest_segment * COLUMNS_BLAS * sizeof(float);
}

struct job {
    const struct tx_run *run;
    struct tx_gemm_f32 gemm;  /* of all rows and columns */
    const struct tx_seq *seq;
    size_t rows, columns;     /* of a tile */
    size_t row_tiles;
};

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

static void own_task(void *arg, size_t task, int worker)
{
    const struct job *job = arg;
    if (tx_run_stopped(job->run, worker))
        return;
    const size_t r0 = task % job->row_tiles * job->rows, n0 = task / job->row_tiles * job->columns;
    struct tx_gemm_f32 tile = job->gemm;
    tile.M = tx_min(job->rows, job->gemm.M - r0);
    tile.n0 = n0;
    tile.n1 = tx_min(n0 + job->columns, tile.N);
    tile.a += r0 * tile.lda;
    tile.out += r0 * tile.ldo;
    tile.epilogue = epilogue_at(&job->gemm.epilogue, r0);
    job->run->kernels->gemm_f32(&tile);
}

static void blas_task(void *arg, size_t task, int worker)
{
    const struct job *job = arg;
    const struct tx_gemm_f32 *g = &job->gemm;
    const size_t image = task % job->row_tiles, n0 = task / job->row_tiles * job->columns;
    const size_t r0 = job->seq->start[image], rows = tx_seq_length(job->seq, image), columns = tx_min(job->columns, g->N - n0);
    float *sums = tx_run_scratch(job->run, worker);
    if (!rows || tx_run_stopped(job->run, worker))
        return;
    scipy_cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)columns, (int)g->K, 1.0f, g->a + r0 * g->lda,
                      (int)g->lda, g->w + n0 * g->K, (int)g->K, 0.0f, sums, COLUMNS_BLAS);
    struct tx_epilogue_f32 e = epilogue_at(&g->epilogue, r0);
    e.bias = e.bias ? e.bias + n0 : NULL;
    e.residual = e.residual ? e.residual + n0 : NULL;
    e.gate = e.gate ? e.gate + n0 : NULL;
    job->run->kernels->epilogue_f32(g->out + r0 * g->ldo + n0, g->ldo, sums, COLUMNS_BLAS, rows, columns, &e);
}

void tx_linear_run(const struct tx_run *run, const struct tx_linear *linear, float *out, size_t ldo, const float *a, size_t lda,
                   const struct tx_seq *seq, const struct tx_epilogue_f32 *epilogue)
{
    const size_t M = tx_seq_rows(seq);
    if (!M)
        return;
    struct job job = {
        .run = run,
        .gemm = {.out = out, .ldo = ldo, .a = a, .lda = lda, .w = linear->w, .M = M, .N = linear->N, .K = linear->K},
        .seq = seq,
    };
    if (epilogue)
        job.gemm.epilogue = *epilogue;
    job.gemm.epilogue.bias = linear->bias;
    if (!run->kernels->gemm_f32_fast) {
        job.columns = COLUMNS_BLAS;
        job.row_tiles = seq->images;
        tx_pool_run(run->threads, blas_task, &job, job.row_tiles * ((linear->N + job.columns - 1) / job.columns));
        return;
    }
    const size_t nr = run->kernels->gemm_f32_nr, panels = (linear->N + nr - 1) / nr;
    job.rows = tx_min(ROWS, M);
    job.row_tiles = (M + job.rows - 1) / job.rows;
    const size_t wanted = (size_t)run->threads * TILES_A_THREAD;
    const size_t runs = tx_min(panels, (wanted + job.row_tiles - 1) / job.row_tiles);
    job.columns = (panels + runs - 1) / runs * nr;
    tx_pool_run(run->threads, own_task, &job, job.row_tiles * ((linear->N + job.columns - 1) / job.columns));
}
