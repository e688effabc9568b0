/* Pixels to patch rows and back: image [S,S,3] <-> patches [(S/p)^2, 3ww], both in (row, column, channel) order, so that a
 * patch row is w runs of up to 3w consecutive values of the image. The only version: memory traffic of one image, nothing
 * beside the model. */
#include "row.h"

#include <string.h>

/* ---- pixels to patches ---- */

/* A run of a window: `before` values beyond the image, then `n` of it from `from` on, then `after` beyond. */
struct run {
    size_t before, from, n, after;
};

/* The run of patch column c's windows in a row of the image. */
static struct run run_of(size_t c, struct tx_patches cut)
{
    const size_t w = cut.p + 2 * cut.o, start = c * cut.p, before = start < cut.o ? cut.o - start : 0;
    const size_t beyond = start + cut.p + cut.o, after = beyond > cut.S ? beyond - cut.S : 0;
    return (struct run){3 * before, 3 * (start + before - cut.o), 3 * (w - before - after), 3 * after};
}

/* Window row i of patch row r as a row of the image; S where it lies beyond. */
static size_t image_row(size_t r, size_t i, struct tx_patches cut)
{
    const size_t y = r * cut.p + i;
    return y < cut.o || y - cut.o >= cut.S ? cut.S : y - cut.o;
}

static void take_u8(float *to, const uint8_t *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (float)from[i] / 127.5f - 1.0f;
}

/* One of the two images is NULL. */
static void patchify(float *patches, size_t ldp, const uint8_t *bytes, const float *floats, struct tx_patches cut)
{
    const size_t g = cut.S / cut.p, w = cut.p + 2 * cut.o;
    for (size_t patch = 0; patch < g * g; patch++)
        for (size_t i = 0; i < w; i++) {
            const size_t y = image_row(patch / g, i, cut);
            const struct run run = run_of(patch % g, cut);
            float *to = patches + patch * ldp + 3 * w * i;
            if (y == cut.S) {
                memset(to, 0, 3 * w * sizeof *to);
                continue;
            }
            memset(to, 0, run.before * sizeof *to);
            if (bytes)
                take_u8(to + run.before, bytes + 3 * y * cut.S + run.from, run.n);
            else
                memcpy(to + run.before, floats + 3 * y * cut.S + run.from, run.n * sizeof *to);
            memset(to + run.before + run.n, 0, run.after * sizeof *to);
        }
}

void txk_patchify_u8_ref(float *patches, size_t ldp, const uint8_t *image, struct tx_patches cut)
{
    patchify(patches, ldp, image, NULL, cut);
}

void txk_patchify_f32_ref(float *patches, size_t ldp, const float *image, struct tx_patches cut)
{
    patchify(patches, ldp, NULL, image, cut);
}

/* ---- patches to pixels ---- */

/* Where in windows a stretch of pixels of one row lies: in up to two rows of windows, in up to two of each. */
struct sources {
    const float *from[4];
    int count;
};

/* The windows that hold pixel (y, x), in raster order. All pixels between two borders of windows are in the same ones. */
static struct sources sources_of(const float *patches, size_t ldp, size_t y, size_t x, struct tx_patches cut)
{
    const size_t g = cut.S / cut.p, w = cut.p + 2 * cut.o;
    const size_t top = y < cut.p + cut.o ? 0 : (y - cut.o) / cut.p, left = x < cut.p + cut.o ? 0 : (x - cut.o) / cut.p;
    struct sources sources = {{NULL}, 0};
    for (size_t r = top; r < g && r * cut.p <= y + cut.o; r++)
        for (size_t c = left; c < g && c * cut.p <= x + cut.o; c++)
            sources.from[sources.count++] =
                patches + (r * g + c) * ldp + 3 * ((y + cut.o - r * cut.p) * w + x + cut.o - c * cut.p);
    return sources;
}

static float sum_at(const struct sources *sources, size_t i)
{
    float sum = sources->from[0][i];
    for (int s = 1; s < sources->count; s++)
        sum += sources->from[s][i];
    return sum;
}

static void put_f32(float *to, const struct sources *sources, size_t n)
{
    if (sources->count == 1)
        memcpy(to, sources->from[0], n * sizeof *to);
    else
        for (size_t i = 0; i < n; i++)
            to[i] = sum_at(sources, i);
}

static void put_u8(uint8_t *to, const struct sources *sources, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const float sum = sum_at(sources, i);
        /* The comparisons send NaN to -1: converting it to an integer would be undefined. */
        const float v = sum > -1.0f ? (sum < 1.0f ? sum : 1.0f) : -1.0f;
        to[i] = (uint8_t)((v + 1.0f) * 127.5f + 0.5f);
    }
}

/* One of the two images is NULL. */
static void unpatchify(uint8_t *bytes, float *floats, const float *patches, size_t ldp, struct tx_patches cut)
{
    for (size_t y = 0; y < cut.S; y++)
        for (size_t start = 0; start < cut.S; start += cut.p) {
            /* A patch's own pixels: the left o are in its left neighbour's window too, the right o in its right one's. */
            const size_t ends[3] = {start + cut.o, start + cut.p - cut.o, start + cut.p};
            size_t x = start;
            for (int part = 0; part < 3; part++) {
                if (ends[part] <= x)
                    continue;
                const struct sources sources = sources_of(patches, ldp, y, x, cut);
                const size_t at = 3 * (y * cut.S + x), n = 3 * (ends[part] - x);
                if (bytes)
                    put_u8(bytes + at, &sources, n);
                else
                    put_f32(floats + at, &sources, n);
                x = ends[part];
            }
        }
}

void txk_unpatchify_u8_ref(uint8_t *image, const float *patches, size_t ldp, struct tx_patches cut)
{
    unpatchify(image, NULL, patches, ldp, cut);
}

void txk_unpatchify_f32_ref(float *image, const float *patches, size_t ldp, struct tx_patches cut)
{
    unpatchify(NULL, image, patches, ldp, cut);
}
