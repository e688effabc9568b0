/* out[M, n0:n1] = epilogue(A[M,K] W[N,K]^T) with weights of 4 bits: ../gemm_int4.h, on the bytes of gemm_int8.c.
 *
 * Up to FEW rows are memory's time: there the bytes never leave the registers. A tile is up to 8 rows by the 32 columns of a
 * panel: 16 sums, two vectors of bytes with two scales and two offsets, and a broadcast dword of A. */
#include "../avx512/epilogue_narrow.h"
#include "../avx512/expand_int4.h"
#include "row.h"

enum { NR = 32, ROWS = 8, FEW = 2 * ROWS, AHEAD = 1536 /* bytes that are on their way */ };

static void expand(char *to, const uint8_t *scales, const uint8_t *nibbles, size_t Kp)
{
    expand_int4(to, scales, nibbles, Kp, 1);
}

static const struct txk_int4 layout = {.nr = NR, .side = 4, .expand = expand, .gemm_int8 = txk_gemm_int8_avx512_vnni};
TXK_INT4_PACKING(avx512_vnni, layout)

struct few_tile {
    const char *a;
    size_t lda;
    const uint8_t *scales, *nibbles;
    size_t groups;
    const int32_t *begin;   /* [rows] -128 times the sum of A's row, since W's bytes are w + 128 */
    char *c;                /* [rows, 32] */
};

TXK_INLINE void few_tile(const struct few_tile *t, const int rows)
{
    __m512i acc[ROWS][2];
    const char *a[ROWS];
    const uint8_t *nibbles = t->nibbles;
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        acc[i][0] = acc[i][1] = _mm512_set1_epi32(t->begin[i]);
        a[i] = t->a + (size_t)i * t->lda;
    }
    for (size_t g = 0; g < t->groups; g++) {
        const struct int4_group group = int4_group(t->scales + NR * g, 1);
#pragma GCC unroll 8
        for (size_t line = 0; line < TX_INT4_GROUP / 4; line++, nibbles += 64) {
            _mm_prefetch((const char *)nibbles + AHEAD, _MM_HINT_T0);
            const __m512i x = _mm512_load_si512(nibbles), left = int4_left(x, group), right = int4_right(x, group);
#pragma GCC unroll 8
            for (int i = 0; i < rows; i++) {
                const __m512i dword = _mm512_set1_epi32(((const int32_t *)a[i])[g * TX_INT4_GROUP / 4 + line]);
                acc[i][0] = _mm512_dpbusd_epi32(acc[i][0], left, dword);
                acc[i][1] = _mm512_dpbusd_epi32(acc[i][1], right, dword);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        _mm512_store_si512(t->c + i * 4 * NR, acc[i][0]);
        _mm512_store_si512(t->c + i * 4 * NR + 64, acc[i][1]);
    }
}

#define FEW_TILE(rows) static void few_tile_##rows(const struct few_tile *t) { few_tile(t, rows); }
FEW_TILE(1) FEW_TILE(2) FEW_TILE(3) FEW_TILE(4) FEW_TILE(5) FEW_TILE(6) FEW_TILE(7) FEW_TILE(8)
static void (*const few_tiles[ROWS + 1])(const struct few_tile *t) = {
    NULL, few_tile_1, few_tile_2, few_tile_3, few_tile_4, few_tile_5, few_tile_6, few_tile_7, few_tile_8};

NARROW_ROWS_FUNCTIONS(1)

static void multiply_few(const struct tx_gemm_narrow *job)
{
    const size_t Kp = tx_k_padded(job->K), panel = txk_int4_panel(NR, job->K);
    int32_t begins[FEW];
    char c[ROWS * NR * 4] __attribute__((aligned(64)));
    struct narrow_rows sums = {.job = job, .run = narrow_rows_of_act[job->epilogue.act]};
    for (size_t m = 0; m < job->M; m++) {
        __m512i sum = _mm512_setzero_si512();
        for (size_t k = 0; k < Kp; k += 64)
            sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_load_si512((const char *)job->a + m * job->lda + k));
        begins[m] = -128 * _mm512_reduce_add_epi32(sum);
    }
    const size_t height = job->M <= ROWS ? job->M : (job->M + 1) / 2;
    for (size_t n = job->n0; n < job->n1; n += NR) {
        const uint8_t *scales = (const uint8_t *)job->w + n / NR * panel;
        for (size_t m = 0; m < job->M; m += height) {
            const size_t rows = job->M - m < height ? job->M - m : height;
            few_tiles[rows](&(struct few_tile){
                .a = (const char *)job->a + m * job->lda, .lda = job->lda, .scales = scales,
                .nibbles = scales + txk_int4_scales(NR, job->K), .groups = Kp / TX_INT4_GROUP, .begin = begins + m, .c = c});
            narrow_rows_start(&sums, c, m, rows, n);
            narrow_rows_next(&sums, sums.left);
        }
    }
}

void txk_gemm_int4_avx512_vnni(const struct tx_gemm_narrow *job)
{
    if (job->M <= FEW)
        multiply_few(job);
    else
        txk_int4_gemm(&layout, job);
}
