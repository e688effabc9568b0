#include "sampler.h"

#include <string.h>

struct buffers {
    struct tx_dit_buffers dit;
    float *out;                 /* B or 2B predictions: conditional, then unconditional */
    float *m, *v, *x0_prev;     /* B samples each */
    float *t;                   /* [pairs] */
    size_t *condition;          /* [pairs], then [2B] for the evaluation */
    size_t *image, *pair, *text;  /* [2B] */
};

static int any_guided(const struct tx_sample *s)
{
    for (size_t i = 0; i < s->steps; i++)
        if (s->guidance[i] != 1.0f)
            return 1;
    return 0;
}

static void plan(const struct tx_dit *dit, struct buffers *b, struct tx_arena *arena, const struct tx_sample *s, int guided)
{
    const size_t n = s->B * tx_dit_sample_size(dit), rows = guided ? 2 * s->B : s->B;
    tx_dit_plan(dit, &b->dit, arena, s->B, guided, s->text.t, s->steps);
    b->out = tx_arena_take(arena, rows, tx_dit_output_size(dit) * sizeof(float));
    b->m = tx_arena_take(arena, n, sizeof(float));
    b->v = tx_arena_take(arena, n, sizeof(float));
    b->x0_prev = tx_arena_take(arena, n, sizeof(float));
    b->t = tx_arena_take(arena, b->dit.pairs, sizeof(float));
    b->condition = tx_arena_take(arena, b->dit.pairs, sizeof(size_t));
    b->image = tx_arena_take(arena, rows, sizeof(size_t));
    b->pair = tx_arena_take(arena, rows, sizeof(size_t));
    b->text = tx_arena_take(arena, rows, sizeof(size_t));
}

/* Modulations of the steps from `step` on, as many as there is room for; returns how many steps that is. */
static size_t modulate(const struct tx_run *run, const struct tx_dit *dit, struct buffers *b, const struct tx_sample *s,
                       size_t step)
{
    const size_t G = b->dit.conditions, count = tx_min(b->dit.pairs / G, s->steps - step);
    for (size_t i = 0; i < count * G; i++) {
        b->t[i] = s->t[step + i / G];
        b->condition[i] = i % G;
    }
    tx_dit_modulate(run, dit, &b->dit, b->t, b->condition, count * G, 0);
    return count;
}

/* The guided prediction u + scale (c - u) of the first `guided` channels, the conditional's own for the rest and for the
 * variance. */
static void guide(const struct tx_dit *dit, struct buffers *b, size_t B, float scale)
{
    const size_t C = dit->C * dit->plane, Co = dit->out_channels * dit->plane, guided = dit->guided * dit->plane,
                 rows = B * dit->rows;
    for (size_t r = 0; r < rows; r++) {
        const float *c = b->out + r * Co, *u = b->out + (rows + r) * Co;
        memcpy(b->m + r * C, c, C * sizeof *c);
        if (scale != 1.0f)
            for (size_t i = 0; i < guided; i++)
                b->m[r * C + i] = u[i] + scale * (c[i] - u[i]);
        if (Co > C)
            memcpy(b->v + r * C, c + C, C * sizeof *c);
    }
}

enum tx_status tx_sample_run(const struct tx_run *run, const struct tx_dit *dit, struct tx_arena *arena,
                             const struct tx_sample *s)
{
    struct buffers b;
    const int guided = any_guided(s);
    const size_t n = s->B * tx_dit_sample_size(dit);
    plan(dit, &b, arena, s, guided);
    if (!arena->base)
        return TX_OK;
    tx_dit_condition(run, dit, &b.dit, &s->text, s->B, guided);
    memset(b.x0_prev, 0, n * sizeof *b.x0_prev);
    const size_t G = b.dit.conditions;
    for (size_t step = 0, first = 0, ready = 0; step < s->steps; step++) {
        if (step == first + ready) {
            first = step;
            ready = modulate(run, dit, &b, s, step);
        }
        const float scale = s->guidance[step];
        const size_t E = scale != 1.0f ? 2 * s->B : s->B;
        for (size_t e = 0; e < E; e++) {
            b.image[e] = e % s->B;
            b.text[e] = e < s->B ? e : s->B;
            b.pair[e] = (step - first) * G + b.text[e];
        }
        if (tx_dit_evaluate(run, dit, &b.dit, s->x, b.image, b.pair, b.text, E, b.out) != TX_OK)
            return TX_STOPPED;
        guide(dit, &b, s->B, scale);
        run->kernels->step_f32(&(struct tx_step_f32){
            .x = s->x, .x0_prev = b.x0_prev, .m = b.m, .v = dit->out_channels > dit->C ? b.v : NULL,
            .noise = s->noise ? s->noise + step * n : NULL, .u = s->update + step * TX_UPDATE, .n = n,
        });
        if (s->after && s->after(s->after_arg, step))
            return tx_fail(run->err, TX_STOPPED, "stopped after step %zu", step);
    }
    return TX_OK;
}
