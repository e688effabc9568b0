/* LayerNorm of each row, with affine and modulation, straight into the next product's operand: bfloat16, or int8 with a scale a
 * row, zero padded. int8 needs the row's largest magnitude first, so its elements are computed twice: that is cheaper than
 * storing them. */
#include "row.h"
#include "moments.h"
#include "simd_narrow.h"

struct norm_row {
    const float *x, *weight, *bias, *scale, *shift;
    __m512 origin, mean, rstd;
    size_t D;
};

static struct norm_row norm_row(const struct tx_norm_f32 *job, size_t m)
{
    const float *x = job->x + m * job->ldx;
    /* Other threads wrote parts of it: from their caches a row comes slowly. */
    if (m + 1 < job->M)
        for (size_t d = 0; d < job->D; d += 16)
            _mm_prefetch((const char *)(x + job->ldx + d), _MM_HINT_T0);
    const size_t g = job->group ? (size_t)job->group[m] : 0;
    const struct moments row = row_moments(job, m);
    return (struct norm_row){
        .x = x, .weight = job->weight, .bias = job->bias, .D = job->D,
        .scale = job->scale ? job->scale + g * job->ldm : NULL, .shift = job->scale ? job->shift + g * job->ldm : NULL,
        .origin = _mm512_set1_ps(row.shift), .mean = _mm512_set1_ps(row.mean), .rstd = _mm512_set1_ps(row.rstd),
    };
}

/* Elements d.. of the result: all of them in the row, or with zeros behind D. */
TXK_INLINE __m512 norm_f32x16(const struct norm_row *r, size_t d, const int whole)
{
    const __mmask16 lanes = d < r->D ? lanes_f32x16(r->D - d) : 0;
#define ELEMENTS(p) (whole ? _mm512_loadu_ps((p) + d) : _mm512_maskz_loadu_ps(lanes, (p) + d))
    __m512 y = _mm512_sub_ps(_mm512_sub_ps(ELEMENTS(r->x), r->origin), r->mean);
    y = whole ? _mm512_mul_ps(y, r->rstd) : _mm512_maskz_mul_ps(lanes, y, r->rstd);
    if (r->bias)
        y = _mm512_fmadd_ps(y, ELEMENTS(r->weight), ELEMENTS(r->bias));
    else if (r->weight)
        y = _mm512_mul_ps(y, ELEMENTS(r->weight));
    if (r->scale)
        y = _mm512_fmadd_ps(y, _mm512_add_ps(_mm512_set1_ps(1.0f), ELEMENTS(r->scale)), ELEMENTS(r->shift));
#undef ELEMENTS
    return y;
}

void txk_norm_bf16_avx512(const struct tx_norm_f32 *job, uint16_t *out)
{
    for (size_t m = 0; m < job->M; m++, out += job->ldo) {
        const struct norm_row row = norm_row(job, m);
        size_t d = 0;
        for (; d + 16 <= job->D; d += 16)
            _mm256_storeu_si256((__m256i *)(out + d), bf16_of_f32x16(norm_f32x16(&row, d, 1)));
        for (; d < tx_k_padded(job->D); d += 16)
            _mm256_storeu_si256((__m256i *)(out + d), bf16_of_f32x16(norm_f32x16(&row, d, 0)));
    }
}

void txk_norm_int8_avx512(const struct tx_norm_f32 *job, int8_t *out, float *scale)
{
    for (size_t m = 0; m < job->M; m++, out += job->ldo) {
        const struct norm_row row = norm_row(job, m);
        __m512 max[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        size_t d = 0;
        for (; d + 32 <= job->D; d += 32) {
            max[0] = max_magnitude_f32x16(max[0], norm_f32x16(&row, d, 1));
            max[1] = max_magnitude_f32x16(max[1], norm_f32x16(&row, d + 16, 1));
        }
        for (; d < job->D; d += 16)
            max[0] = max_magnitude_f32x16(max[0], norm_f32x16(&row, d, 0));
        const struct row_scale s = scale_of_max(max_magnitude_f32x16(max[0], max[1]));
        const __m512 factor = _mm512_set1_ps(s.factor);
        scale[m] = s.scale;
        for (d = 0; d + 16 <= job->D; d += 16)
            _mm_storeu_si128((__m128i *)(out + d), quantize_f32x16(norm_f32x16(&row, d, 1), factor));
        for (; d < tx_k_padded(job->D); d += 16)
            _mm_storeu_si128((__m128i *)(out + d), quantize_f32x16(norm_f32x16(&row, d, 0), factor));
    }
}
