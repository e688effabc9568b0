/* out[Tq,Dh] = softmax(scale q k^T) v of one head, never storing more scores than a strip.
 *
 * Packed once a call into scratch: K as panels of 64 keys, [Tk/64][Dh][64], and V as groups of at most 64 columns, [Dh/64][Tk][64], both
 * zero padded to whole vectors (the last panel and group are as narrow as they can be).
 * Then strips of ROWS queries; for each, blocks of BLOCK keys with borders at multiples of BLOCK from key 0: scores by the tile of
 * tile_avx512.h, the running maximum of each row, exp, the sums so far rescaled, and P V by the same tile on top of them.
 * A row's arithmetic depends on its q, on Tk and on Dh alone. Rows whose scores hold NaN or +inf come out as NaN. */
#include <math.h>

#include "kernels_avx512.h"
#include "tile_avx512.h"

enum {
    WIDTH = 16 * TILE_VECTORS,
    ROWS = 24,              /* of a strip: its probabilities stay in L1 */
    BLOCK = 256,
    LD_STRIP = BLOCK + 16,  /* so that rows do not fall on the same sets of L1 */
};

/* Tiles whose panel is exactly as wide as they are. */
#define TILE(MR, NV) static void tile_##MR##_##NV(const struct tile_f32 *t) { tile_f32(t, MR, NV, 16 * NV); }
#define TILES(NV) TILE(1, NV) TILE(2, NV) TILE(3, NV) TILE(4, NV) TILE(5, NV) TILE(6, NV)
TILES(1) TILES(2) TILES(3) TILES(4)
#define NAMES(NV) {tile_1_##NV, tile_2_##NV, tile_3_##NV, tile_4_##NV, tile_5_##NV, tile_6_##NV}
static void (*const tiles[TILE_VECTORS][TILE_ROWS])(const struct tile_f32 *) = {NAMES(1), NAMES(2), NAMES(3), NAMES(4)};

static size_t vectors(size_t n)
{
    return (n + 15) / 16;
}

/* The parts of scratch, and how the columns of V are grouped: 5 vectors go as 3 + 2 and not as 4 + 1. */
struct plan {
    float *keys;        /* packed K */
    float *values;      /* packed V */
    float *strip;       /* [ROWS, LD_STRIP] scores, then probabilities */
    float *sums;        /* [ROWS, ldsums] P V so far */
    size_t ldsums, groups;
};

static size_t plan(struct plan *p, float *scratch, size_t Tk, size_t Dh)
{
    const size_t n_keys = 16 * vectors(Tk) * Dh, n_values = 16 * vectors(Dh) * Tk, n_strip = ROWS * LD_STRIP;
    p->ldsums = 16 * vectors(Dh);
    p->groups = (p->ldsums + WIDTH - 1) / WIDTH;
    if (scratch) {
        p->keys = scratch;
        p->values = p->keys + n_keys;
        p->strip = p->values + n_values;
        p->sums = p->strip + n_strip;
    }
    return n_keys + n_values + n_strip + ROWS * p->ldsums;
}

size_t txk_attention_f32_scratch_avx512(size_t Tk, size_t Dh)
{
    struct plan p;
    return plan(&p, NULL, Tk, Dh) * sizeof(float);
}

/* First column of a group of V. */
static size_t group_begin(const struct plan *p, size_t group)
{
    return 16 * part_begin(p->ldsums / 16, p->groups, group);
}

static void pack(const struct plan *p, const struct tx_attention_f32 *job)
{
    const size_t Tk = job->Tk, Dh = job->Dh;
    for (size_t t = 0; t < Tk; t += WIDTH) {
        const size_t keys = Tk - t < WIDTH ? Tk - t : WIDTH;
        transpose_f32(p->keys + t * Dh, 16 * vectors(keys), job->k + t * job->ldk, job->ldk, keys, Dh);
    }
    for (size_t g = 0; g < p->groups; g++) {
        const size_t d0 = group_begin(p, g), width = group_begin(p, g + 1) - d0;
        float *to = p->values + d0 * Tk;
        for (size_t t = 0; t < Tk; t++)
            for (size_t d = d0; d < d0 + width; d += 16, to += 16) {
                if (t + 16 < Tk)
                    _mm_prefetch((const char *)(job->v + (t + 16) * job->ldv + d), _MM_HINT_T0);
                _mm512_store_ps(to, _mm512_maskz_loadu_ps(lanes_f32x16(Dh - d), job->v + t * job->ldv + d));
            }
    }
}

/* C[rows, 16 nv] = (C where `more`) + A[rows,K] panel[K, 16 nv] */
static void product(float *c, size_t ldc, int more, const float *a, size_t lda, size_t rows, const float *panel, size_t nv, size_t K)
{
    const size_t parts = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (size_t i = 0; i < parts; i++) {
        const size_t r = part_begin(rows, parts, i), n = part_begin(rows, parts, i + 1) - r;
        const struct tile_f32 t = {.a = a + r * lda, .lda = lda, .w = panel, .K = K, .c = c + r * ldc, .ldc = ldc, .more = more};
        tiles[nv - 1][n - 1](&t);
    }
}

struct running {
    float max[(ROWS + 15) / 16 * 16], sum[(ROWS + 15) / 16 * 16];
} __attribute__((aligned(64)));

static float row_max(const float *s, size_t keys, float so_far)
{
    __m512 m = _mm512_set1_ps(so_far);
    size_t j = 0;
    for (; j + 16 <= keys; j += 16)
        m = _mm512_max_ps(m, _mm512_load_ps(s + j));
    if (j < keys)
        m = _mm512_mask_max_ps(m, lanes_f32x16(keys - j), m, _mm512_load_ps(s + j));
    return _mm512_reduce_max_ps(m);
}

/* s <- 2^(s factor - base), and their sum. Lanes past the last key hold something finite that is not summed. */
static float row_exp(float *s, size_t keys, float factor, float base)
{
    const __m512 f = _mm512_set1_ps(factor), b = _mm512_set1_ps(base);
    __m512 sum = _mm512_setzero_ps();
    size_t j = 0;
    for (; j + 16 <= keys; j += 16) {
        const __m512 e = exp2_f32x16(_mm512_fmsub_ps(_mm512_load_ps(s + j), f, b));
        sum = _mm512_add_ps(sum, e);
        _mm512_store_ps(s + j, e);
    }
    if (j < keys) {
        const __m512 e = exp2_f32x16(_mm512_fmsub_ps(_mm512_load_ps(s + j), f, b));
        sum = _mm512_mask_add_ps(sum, lanes_f32x16(keys - j), sum, e);
        _mm512_store_ps(s + j, e);
    }
    return _mm512_reduce_add_ps(sum);
}

/* Scores of a strip become probabilities relative to the new maximum; sums made under the old one shrink with it. */
static void soften(const struct plan *p, struct running *state, size_t rows, size_t keys, float factor, int first)
{
    struct running next, shrink;
    for (size_t r = 0; r < rows; r++)
        next.max[r] = row_max(p->strip + r * LD_STRIP, keys, state->max[r]);
    for (size_t r = rows; r % 16; r++)
        next.max[r] = 0;
    for (size_t r = 0; r < rows; r += 16) {
        const __m512 fall = _mm512_sub_ps(_mm512_load_ps(state->max + r), _mm512_load_ps(next.max + r));
        _mm512_store_ps(shrink.max + r, exp2_f32x16(_mm512_mul_ps(fall, _mm512_set1_ps(factor))));
    }
    for (size_t r = 0; r < rows; r++) {
        const float sum = row_exp(p->strip + r * LD_STRIP, keys, factor, next.max[r] * factor), s = shrink.max[r];
        state->max[r] = next.max[r];
        state->sum[r] = first ? sum : state->sum[r] * s + sum;
        if (first || s == 1.0f)
            continue;
        for (size_t d = 0; d < p->ldsums; d += 16) {
            float *x = p->sums + r * p->ldsums + d;
            _mm512_store_ps(x, _mm512_mul_ps(_mm512_load_ps(x), _mm512_set1_ps(s)));
        }
    }
}

/* Rows q0..q0+rows of the queries. */
static void strip(const struct plan *p, const struct tx_attention_f32 *job, size_t q0, size_t rows)
{
    const size_t Tk = job->Tk, Dh = job->Dh;
    struct running state;
    for (size_t r = 0; r < sizeof state.max / sizeof *state.max; r++)
        state.max[r] = -INFINITY, state.sum[r] = 1;
    for (size_t t0 = 0; t0 < Tk; t0 += BLOCK) {
        const size_t keys = Tk - t0 < BLOCK ? Tk - t0 : BLOCK;
        for (size_t t = 0; t < keys; t += WIDTH)
            product(p->strip + t, LD_STRIP, 0, job->q + q0 * job->ldq, job->ldq, rows, p->keys + (t0 + t) * Dh,
                    vectors(keys - t < WIDTH ? keys - t : WIDTH), Dh);
        soften(p, &state, rows, keys, job->scale * 1.44269504088896341f, t0 == 0);
        for (size_t g = 0; g < p->groups; g++) {
            const size_t d0 = group_begin(p, g), width = group_begin(p, g + 1) - d0;
            product(p->sums + d0, p->ldsums, t0 > 0, p->strip, LD_STRIP, rows, p->values + d0 * Tk + t0 * width, width / 16, keys);
        }
    }
    for (size_t r = 0; r < rows; r++) {
        const __m512 scale = _mm512_set1_ps(1.0f / state.sum[r]);
        for (size_t d = 0; d < Dh; d += 16)
            _mm512_mask_storeu_ps(job->out + (q0 + r) * job->ldo + d, lanes_f32x16(Dh - d),
                                  _mm512_mul_ps(_mm512_load_ps(p->sums + r * p->ldsums + d), scale));
    }
}

void txk_attention_f32_avx512(const struct tx_attention_f32 *job)
{
    struct plan p;
    plan(&p, job->scratch, job->Tk, job->Dh);
    pack(&p, job);
    const size_t strips = (job->Tq + ROWS - 1) / ROWS;
    for (size_t i = 0; i < strips; i++)
        strip(&p, job, part_begin(job->Tq, strips, i), part_begin(job->Tq, strips, i + 1) - part_begin(job->Tq, strips, i));
}
