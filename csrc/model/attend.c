#include "attend.h"

#include <math.h>

#include "../base/pool.h"

enum { PARTS_A_THREAD = 4 }; /* so that a thread that starts late has less left to do */

struct job {
    const struct tx_run *run;
    struct tx_attend a;
    size_t chunks, chunk_rows;      /* runs of queries an image */
};

/* int8 models have an attention of their own, but none that takes a bias. */
static int in_int8(enum tx_dtype products, int biased)
{
    return tx_operand_dtype(products) == TX_INT8 && !biased;
}

size_t tx_attend_scratch(const struct tx_kernels *kernels, enum tx_dtype products, int biased, size_t keys, size_t Dh)
{
    if (products == TX_F32)
        return kernels->attention_f32_scratch(keys, Dh);
    return (in_int8(products, biased) ? kernels->attention_int8_scratch : kernels->attention_bf16_scratch)(keys, Dh);
}

static void attend_task(void *arg, size_t task, int worker)
{
    const struct job *job = arg;
    const struct tx_attend *a = &job->a;
    const size_t chunk = task % job->chunks, h = task / job->chunks % a->H, image = task / job->chunks / a->H;
    const size_t count = a->count ? a->count : tx_seq_length(a->queries, image), c0 = chunk * job->chunk_rows;
    const size_t text = a->keys_of ? a->keys_of[image] : image;
    if (c0 >= count || tx_run_stopped(job->run, worker))
        return;
    const size_t q0 = a->queries->start[image] + a->first + c0, k0 = a->keys->start[text], column = h * a->Dh;
    const size_t o0 = (a->count ? image * a->count : a->queries->start[image]) + c0;
    const size_t Tq = tx_min(job->chunk_rows, count - c0),
        Tk = a->key_count ? a->key_count[image] : tx_seq_length(a->keys, text);
    const struct tx_mat out = tx_mat_at(a->out, o0, column), q = tx_mat_at(a->q, q0, column);
    const struct tx_mat k = tx_mat_at(a->k, k0, column), v = tx_mat_at(a->v, k0, column);
    const float *bias = a->bias ? a->bias + h * a->ldbias + c0 : NULL;
    void *scratch = tx_run_scratch(job->run, worker);
#define HEAD(type) (&(struct type){                                                                                       \
        .out = out.data, .ldo = out.ld, .q = q.data, .ldq = q.ld, .k = k.data, .ldk = k.ld, .v = v.data, .ldv = v.ld,     \
        .Tq = Tq, .Tk = Tk, .Dh = a->Dh, .scale = a->scale, .bias = bias, .scratch = scratch})
    const struct tx_kernels *kernels = job->run->kernels;
    if (a->products == TX_F32)
        kernels->attention_f32(HEAD(tx_attention_f32));
    else
        (in_int8(a->products, bias != NULL) ? kernels->attention_int8 : kernels->attention_bf16)(HEAD(tx_attention_bf16));
#undef HEAD
}

void tx_attend_run(const struct tx_run *run, const struct tx_attend *attend)
{
    struct job job = {.run = run, .a = *attend};
    size_t longest = attend->count;
    for (size_t b = 0; !attend->count && b < attend->queries->images; b++)
        longest = tx_max(longest, tx_seq_length(attend->queries, b));
    if (!longest)
        return;
    /* As few runs a head as keep all threads busy: each packs the head's keys and values anew. */
    const size_t heads = attend->queries->images * attend->H, wanted = (size_t)run->threads * PARTS_A_THREAD;
    job.chunks = tx_min(longest, (wanted + heads - 1) / heads);
    job.chunk_rows = (longest + job.chunks - 1) / job.chunks;
    if (attend->scale == 0)
        job.a.scale = (float)(1.0 / sqrt((double)attend->Dh));
    tx_pool_run(run->threads, attend_task, &job, heads * job.chunks);
}
