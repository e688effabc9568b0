/* Weights of 4 bits are made: d s q, see kernels.h. */
#ifndef TX_INT4_H
#define TX_INT4_H

#include "../kernels/kernels.h"

enum { TX_INT4_MOST_SCALE = 16 };

/* A row of q [tx_int4_row(K)], s [tx_int4_groups(K)] and *d, rounded to nearest: d from the row's largest, s of each group
 * where its squared error is least. A row with an Inf or NaN gets d NaN and zeros. */
void tx_int4_quantize(uint8_t *q, uint8_t *s, float *d, const float *w, size_t K);

#endif
