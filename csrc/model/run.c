#include "run.h"

#include <stdio.h>

void tx_run_tap(const struct tx_run *run, const char *format, size_t index, const float *x, size_t rows, size_t D, size_t ld)
{
    if (!run->tap)
        return;
    char name[96];
    snprintf(name, sizeof name, format, index);
    run->tap(run->tap_arg, name, x, rows, D, ld);
}
