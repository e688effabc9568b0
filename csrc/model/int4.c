#include "int4.h"

#include <math.h>
#include <string.h>

/* The nearest of -8..7, to even: by an addition that leaves no fraction, which compilers make vectors of on any CPU. */
static float nearest(float x)
{
    const float whole = 0x1.8p23f, inside = x < -8.0f ? -8.0f : x > 7.0f ? 7.0f : x;
    return inside + whole - whole;
}

/* The sum of squared errors of n weights at this step. */
static float error_at(const float *w, size_t n, float step)
{
    const float inverse = 1.0f / step;
    float squares[TX_INT4_GROUP], sum = 0;
    for (size_t i = 0; i < n; i++) {
        const float error = w[i] - step * nearest(w[i] * inverse);
        squares[i] = error * error;
    }
    for (size_t i = 0; i < n; i++)
        sum += squares[i];
    return sum;
}

void tx_int4_quantize(uint8_t *q, uint8_t *s, float *d, const float *w, size_t K)
{
    const size_t groups = tx_int4_groups(K);
    float top = 0;
    int finite = 1;
    for (size_t k = 0; k < K; k++) {
        top = fmaxf(top, fabsf(w[k]));
        finite &= isfinite(w[k]) != 0;
    }
    /* As in int8: rows that have nothing count as zeros, and rows with an Inf or NaN are NaN. */
    if (!finite || top < 0x1p-100f) {
        *d = finite ? 1.0f : NAN;
        memset(s, 0, groups);
        memset(q, 0x88, tx_int4_row(K));
        return;
    }
    /* The largest group's steps reach 7.5 of 8. */
    *d = top / (7.5f * TX_INT4_MOST_SCALE);
    /* Errors are those of the row times a power of two that brings its top to 2..4: no bit of them changes, and their squares
     * are numbers in rows of any size. */
    int exponent;
    frexpf(top, &exponent);
    const float unit = ldexpf(1.0f, 2 - exponent);
    for (size_t g = 0; g < groups; g++) {
        const size_t k0 = g * TX_INT4_GROUP, n = K - k0 < TX_INT4_GROUP ? K - k0 : TX_INT4_GROUP;
        float x[TX_INT4_GROUP], most = 0, least = INFINITY;
        for (size_t i = 0; i < n; i++) {
            most = fmaxf(most, fabsf(w[k0 + i]));
            x[i] = w[k0 + i] * unit;
        }
        s[g] = 0;
        const int middle = (int)(most / (7.5f * *d));
        for (int c = middle - 1; most > 0 && c <= middle + 2; c++) {
            if (c < 1 || c > TX_INT4_MOST_SCALE)
                continue;
            const float error = error_at(x, n, *d * unit * (float)c);
            if (error < least) {
                least = error;
                s[g] = (uint8_t)c;
            }
        }
        const float inverse = s[g] ? 1.0f / (*d * (float)s[g]) : 0.0f;
        for (size_t k = k0; k < k0 + n; k++) {
            const int u = (int)nearest(w[k] * inverse) + 8;
            q[k / 2] = (uint8_t)(k % 2 ? (q[k / 2] & 15) | u << 4 : 0x80 | u);
        }
    }
}
