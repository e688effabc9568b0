#include "outliers.h"

#include <math.h>

#include "../base/arena.h"
#include "../base/pool.h"

enum {
    TIMES = 16,         /* the mean magnitude of its row is what an outlier is larger than */
    SPLIT_ROWS = 8,     /* that a thread takes at a time */
    LANES = 16,         /* sums side by side, and columns looked at together */
    COLUMNS = 256,      /* of an output row whose sums are on the stack */
};

struct tx_outliers tx_outliers_take(struct tx_arena *arena, size_t rows)
{
    return (struct tx_outliers){
        .count = tx_arena_take(arena, rows, sizeof(uint32_t)),
        .at = tx_arena_take(arena, rows, TX_OUTLIERS * sizeof(uint32_t)),
        .value = tx_arena_take(arena, rows, TX_OUTLIERS * sizeof(float)),
    };
}

static float mean_magnitude(const uint16_t *x, size_t K)
{
    float sums[LANES] = {0}, sum = 0;
    size_t k = 0;
    for (; k + LANES <= K; k += LANES)
        for (size_t i = 0; i < LANES; i++)
            sums[i] += fabsf(tx_float_of_bf16(x[k + i]));
    for (size_t i = 0; k + i < K; i++)
        sums[i] += fabsf(tx_float_of_bf16(x[k + i]));
    for (size_t i = 0; i < LANES; i++)
        sum += sums[i];
    return sum / (float)K;
}

/* The columns of magnitudes, as bits, above `limit`; more than TX_OUTLIERS where there are more. */
static uint32_t find(const uint16_t *x, size_t K, int limit, uint32_t *at)
{
    uint32_t count = 0;
    for (size_t k = 0; k < K; k += LANES) {
        const size_t end = tx_min(k + LANES, K);
        int largest = 0;
        for (size_t i = k; i < end; i++)
            largest = (x[i] & 0x7fff) > largest ? x[i] & 0x7fff : largest;
        for (size_t i = k; largest > limit && i < end; i++) {
            if ((x[i] & 0x7fff) <= limit)
                continue;
            if (count == TX_OUTLIERS)
                return count + 1;
            at[count++] = (uint32_t)i;
        }
    }
    return count;
}

struct job {
    const struct tx_outliers *outliers;
    const struct tx_linear *linear;
    struct tx_mat x;
    size_t rows, K;
};

static void split_task(void *arg, size_t task, int worker)
{
    (void)worker;
    const struct job *job = arg;
    const size_t r0 = task * SPLIT_ROWS, r1 = tx_min(r0 + SPLIT_ROWS, job->rows);
    for (size_t r = r0; r < r1; r++) {
        uint16_t *x = tx_mat_at(job->x, r, 0).data;
        uint32_t *at = job->outliers->at + r * TX_OUTLIERS, count;
        float *value = job->outliers->value + r * TX_OUTLIERS, limit = TIMES * mean_magnitude(x, job->K);
        /* Infinities and NaN are above no limit: such a row is what it is without this. */
        while ((count = isfinite(limit) ? find(x, job->K, tx_bf16_of_float(limit), at) : 0) > TX_OUTLIERS)
            limit *= 2;
        for (uint32_t i = 0; i < count; i++) {
            value[i] = tx_float_of_bf16(x[at[i]]);
            x[at[i]] = 0;
        }
        job->outliers->count[r] = count;
    }
}

void tx_outliers_split(const struct tx_run *run, const struct tx_outliers *outliers, struct tx_mat x, size_t rows, size_t K)
{
    struct job job = {.outliers = outliers, .x = x, .rows = rows, .K = K};
    tx_pool_run(run->threads, split_task, &job, (rows + SPLIT_ROWS - 1) / SPLIT_ROWS);
}

static void add_task(void *arg, size_t task, int worker)
{
    (void)worker;
    const struct job *job = arg;
    const struct tx_linear *l = job->linear;
    const size_t r0 = task * SPLIT_ROWS, r1 = tx_min(r0 + SPLIT_ROWS, job->rows);
    for (size_t r = r0; r < r1; r++) {
        const uint32_t count = job->outliers->count[r], *at = job->outliers->at + r * TX_OUTLIERS;
        const float *value = job->outliers->value + r * TX_OUTLIERS;
        for (size_t n0 = 0; count && n0 < l->N; n0 += COLUMNS) {
            const size_t columns = tx_min(COLUMNS, l->N - n0);
            float sums[COLUMNS] = {0}, *x = tx_mat_at(job->x, r, n0).data;
            for (uint32_t i = 0; i < count; i++) {
                const int8_t *w = l->columns + at[i] * l->N + n0;
                for (size_t n = 0; n < columns; n++)
                    sums[n] += value[i] * (float)w[n];
            }
            for (size_t n = 0; n < columns; n++)
                x[n] += sums[n] * l->scale[n0 + n];
        }
    }
}

void tx_outliers_add(const struct tx_run *run, const struct tx_outliers *outliers, const struct tx_linear *linear,
                     struct tx_mat x, size_t rows)
{
    struct job job = {.outliers = outliers, .linear = linear, .x = x, .rows = rows};
    tx_pool_run(run->threads, add_task, &job, (rows + SPLIT_ROWS - 1) / SPLIT_ROWS);
}
