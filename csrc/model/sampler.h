/* All steps of a sampling run. Which solver it is stands in coefficient rows that Python computes (textok/solvers.py); here
 * is the loop: evaluate, guide, combine linearly. The core draws no random numbers: noise comes in as arrays. */
#ifndef TX_SAMPLER_H
#define TX_SAMPLER_H

#include "dit.h"

enum { TX_UPDATE = 10 }; /* numbers in a coefficient row: kernels.h, struct tx_step_f32 */

struct tx_sample {
    float *x;                   /* B samples as dit.h has them, start noise in, result out */
    size_t B, steps;
    const float *t;             /* [steps] train timestep of each */
    const double *update;       /* [steps, TX_UPDATE] */
    const float *guidance;      /* [steps] scale; 1: only the conditional half runs */
    const float *noise;         /* [steps] of B samples each, or NULL */
    struct tx_text text;
    /* After each step; anything but 0 stops with TX_STOPPED. NULL: none. */
    int (*after)(void *arg, size_t step);
    void *after_arg;
};

/* Runs on an arena that a first call without memory has measured. */
enum tx_status tx_sample_run(const struct tx_run *run, const struct tx_dit *dit, struct tx_arena *arena,
                             const struct tx_sample *sample);

#endif
