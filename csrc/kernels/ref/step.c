/* One sampling step, the update of kernels.h element by element in double. The only version: it touches each number once, a
 * thousandth of what the model costs. */
#include "row.h"

#include <math.h>

void txk_step_f32_ref(const struct tx_step_f32 *job)
{
    const double *u = job->u;
    for (size_t i = 0; i < job->n; i++) {
        const double x = job->x[i], m = job->m[i];
        const double x0 = u[0] * x + u[1] * m;
        double next = u[2] * x + u[3] * m + u[4] * job->x0_prev[i];
        if (job->noise)
            next += u[5] * job->noise[i];
        if (job->noise && job->v) {
            const double w = (job->v[i] + 1.0) / 2.0;
            next += u[6] * exp(0.5 * (w * u[8] + (1.0 - w) * u[7])) * job->noise[i];
        }
        job->x[i] = (float)next;
        job->x0_prev[i] = (float)x0;
    }
}
