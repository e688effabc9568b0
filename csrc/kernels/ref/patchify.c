/* Pixels to patch rows and back: image [S,S,3] <-> patches [(S/p)^2, 3pp], both in (row, column, channel) order, so that a
 * patch row is p runs of 3p consecutive values of the image. The only version: memory traffic of one image, nothing beside the
 * model. */
#include "row.h"

#include <string.h>

/* Where run `y` (a pixel row) of patch column `c` starts in the image, and in the patch that holds it. */
static size_t in_image(size_t y, size_t c, size_t S, size_t p)
{
    return 3 * (y * S + c * p);
}

static size_t in_patches(size_t y, size_t c, size_t S, size_t p, size_t ldp)
{
    return (y / p * (S / p) + c) * ldp + 3 * p * (y % p);
}

void txk_patchify_u8_ref(float *patches, size_t ldp, const uint8_t *image, size_t S, size_t p)
{
    for (size_t y = 0; y < S; y++)
        for (size_t c = 0; c < S / p; c++) {
            const uint8_t *from = image + in_image(y, c, S, p);
            float *to = patches + in_patches(y, c, S, p, ldp);
            for (size_t i = 0; i < 3 * p; i++)
                to[i] = (float)from[i] / 127.5f - 1.0f;
        }
}

void txk_patchify_f32_ref(float *patches, size_t ldp, const float *image, size_t S, size_t p)
{
    for (size_t y = 0; y < S; y++)
        for (size_t c = 0; c < S / p; c++)
            memcpy(patches + in_patches(y, c, S, p, ldp), image + in_image(y, c, S, p), 3 * p * sizeof *image);
}

void txk_unpatchify_u8_ref(uint8_t *image, const float *patches, size_t ldp, size_t S, size_t p)
{
    for (size_t y = 0; y < S; y++)
        for (size_t c = 0; c < S / p; c++) {
            const float *from = patches + in_patches(y, c, S, p, ldp);
            uint8_t *to = image + in_image(y, c, S, p);
            for (size_t i = 0; i < 3 * p; i++) {
                /* The comparisons send NaN to -1: converting it to an integer would be undefined. */
                const float v = from[i] > -1.0f ? (from[i] < 1.0f ? from[i] : 1.0f) : -1.0f;
                to[i] = (uint8_t)((v + 1.0f) * 127.5f + 0.5f);
            }
        }
}

void txk_unpatchify_f32_ref(float *image, const float *patches, size_t ldp, size_t S, size_t p)
{
    for (size_t y = 0; y < S; y++)
        for (size_t c = 0; c < S / p; c++)
            memcpy(image + in_image(y, c, S, p), patches + in_patches(y, c, S, p, ldp), 3 * p * sizeof *image);
}
