/* The methods of textok._core.Kernels for the slots of bfloat16, int8 and int4. bfloat16 arrays are uint16; matrices that are
 * multiplied have rows padded with zeros to a multiple of 64 elements, as round_bf16, quantize_int8 and the norms return them.
 * No arithmetic here. */
#include <math.h>

#include "kernels_args.h"

/* What differs between the types of weights: of packed ones as NumPy has them. */
struct narrow_type {
    enum tx_dtype dtype;
    int numpy, int8;        /* int8: what they are multiplied with */
    const char *name;
    size_t size;
};
static const struct narrow_type BF16 = {TX_BF16, NPY_UINT16, 0, "uint16 (bfloat16)", 2};
static const struct narrow_type INT8 = {TX_INT8, NPY_INT8, 1, "int8", 1}, INT4 = {TX_INT4, NPY_UINT8, 1, "uint8", 1};

static size_t panel_columns(PyObject *self, const struct narrow_type *type)
{
    const struct tx_kernels *k = table(self);
    return type->dtype == TX_INT4 ? k->gemm_int4_nr : type->int8 ? k->gemm_int8_nr : k->gemm_bf16_nr;
}

static size_t packed_size(PyObject *self, const struct narrow_type *type, size_t N, size_t K)
{
    const struct tx_kernels *k = table(self);
    return (type->dtype == TX_INT4 ? k->gemm_int4_packed : type->int8 ? k->gemm_int8_packed : k->gemm_bf16_packed)(N, K);
}

/* A new array whose data and rows lie at multiples of 64 bytes: a view into one with slack. columns 0: a vector of `rows`. */
static PyObject *new_aligned(const struct narrow_type *type, size_t rows, size_t columns, void *data)
{
    const size_t wanted = rows * (columns ? columns : 1);
    npy_intp with_slack = (npy_intp)(wanted + 64 / type->size);
    PyObject *whole = PyArray_SimpleNew(1, &with_slack, type->numpy);
    if (!whole)
        return NULL;
    char *start = PyArray_DATA((PyArrayObject *)whole);
    const size_t skip = (64 - (size_t)(uintptr_t)start % 64) % 64;
    *(void **)data = start + skip;
    PyObject *view = PySequence_GetSlice(whole, (Py_ssize_t)(skip / type->size), (Py_ssize_t)(skip / type->size + wanted));
    Py_DECREF(whole);
    if (!view || !columns)
        return view;
    npy_intp extents[2] = {(npy_intp)rows, (npy_intp)columns};
    PyArray_Dims shape = {extents, 2};
    PyObject *result = PyArray_Newshape((PyArrayObject *)view, &shape, NPY_CORDER);
    Py_DECREF(view);
    return result;
}

/* ---- gemm ---- */

static PyObject *pack(PyObject *self, PyObject *object, const struct narrow_type *type)
{
    struct matrix w;
    void *data;
    if (type->int8 ? matrix_of(&w, object, "w", NPY_INT8, "int8", -1, -1, 0) : matrix(&w, object, "w", -1, -1, 0))
        return NULL;
    if (w.ld != w.columns)
        return PyErr_Format(PyExc_ValueError, "w: must be C-contiguous");
    PyObject *result = new_aligned(type, packed_size(self, type, w.rows, w.columns), 0, &data);
    if (!result)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    if (type->int8)
        table(self)->gemm_int8_pack(data, w.data, w.rows, w.columns, 0, w.rows);
    else
        table(self)->gemm_bf16_pack(data, w.data, w.rows, w.columns, 0, w.rows);
    Py_END_ALLOW_THREADS
    return result;
}

/* (w, scale): in place; where the row has nothing to fit, nothing happens. */
static PyObject *fit_int8(PyObject *self, PyObject *args)
{
    PyObject *rows, *scales;
    struct matrix w;
    void *scale;
    if (!PyArg_ParseTuple(args, "OO", &rows, &scales) || matrix_of(&w, rows, "w", NPY_INT8, "int8", -1, -1, 0) ||
        tx_writeable(rows, "w"))
        return NULL;
    if (w.ld != w.columns)
        return PyErr_Format(PyExc_ValueError, "w: must be C-contiguous");
    if (vector(&scale, scales, "scale", NPY_FLOAT32, "float32", 1, (npy_intp)w.rows, 0) || tx_writeable(scales, "scale"))
        return NULL;
    if (table(self)->gemm_int8_fit)
        table(self)->gemm_int8_fit(w.data, scale, w.rows, w.columns);
    Py_RETURN_NONE;
}

static int packed(const void **data, PyObject *self, PyObject *object, const struct narrow_type *type, size_t N, size_t K)
{
    if (vector(data, object, "packed", type->numpy, type->name, 1, (npy_intp)packed_size(self, type, N, K), 0))
        return -1;
    if ((uintptr_t)*data % 64 == 0)
        return 0;
    PyErr_SetString(PyExc_ValueError, "packed: must be 64-byte aligned, as the pack functions make it");
    return -1;
}

static PyObject *unpack(PyObject *self, PyObject *args, const struct narrow_type *type)
{
    PyObject *object;
    Py_ssize_t N, K;
    const void *from;
    if (!PyArg_ParseTuple(args, "Onn", &object, &N, &K))
        return NULL;
    if (N < 1 || K < 1)
        return PyErr_Format(PyExc_ValueError, "n and k must be at least 1, got %zd and %zd", N, K);
    if (packed(&from, self, object, type, (size_t)N, (size_t)K))
        return NULL;
    npy_intp shape[2] = {N, K};
    PyObject *result = PyArray_SimpleNew(2, shape, type->numpy);
    if (result && type->int8)
        table(self)->gemm_int8_unpack(PyArray_DATA((PyArrayObject *)result), from, (size_t)N, (size_t)K);
    else if (result)
        table(self)->gemm_bf16_unpack(PyArray_DATA((PyArrayObject *)result), from, (size_t)N, (size_t)K);
    return result;
}

/* (out, a, packed, k[, a_scale, w_scale], bias, ...): out float32, or uint16 for a bfloat16 result. */
static PyObject *gemm(PyObject *self, PyObject *args, PyObject *kwargs, const struct narrow_type *type)
{
    static char *names_bf16[] = {"out", "a", "packed", "k", "bias", "activation", "residual", "gate", "group", "n0",
                                 "n1", NULL};
    static char *names_int8[] = {"out", "a", "packed", "k", "a_scale", "w_scale", "bias", "activation", "residual", "gate",
                                 "group", "n0", "n1", NULL};
    struct epilogue_args e = {.activation = "none"};
    PyObject *out_object, *a_object, *packed_object, *a_scale = NULL, *w_scale = NULL;
    Py_ssize_t K, n0 = 0, n1 = -1;
    if (type->int8
            ? !PyArg_ParseTupleAndKeywords(args, kwargs, "OOOnOO|OsOOOnn", names_int8, &out_object, &a_object, &packed_object,
                                           &K, &a_scale, &w_scale, &e.bias, &e.activation, &e.residual, &e.gate, &e.group, &n0,
                                           &n1)
            : !PyArg_ParseTupleAndKeywords(args, kwargs, "OOOn|OsOOOnn", names_bf16, &out_object, &a_object, &packed_object, &K,
                                           &e.bias, &e.activation, &e.residual, &e.gate, &e.group, &n0, &n1))
        return NULL;
    const struct narrow_type *of_a = type->int8 ? &INT8 : type;
    struct matrix out, a;
    struct tx_gemm_narrow job = {.out_bf16 =
                                     PyArray_Check(out_object) && PyArray_TYPE((PyArrayObject *)out_object) == NPY_UINT16};
    if ((job.out_bf16 ? matrix_of(&out, out_object, "out", NPY_UINT16, "float32 or uint16", -1, -1, 0)
                      : matrix(&out, out_object, "out", -1, -1, 0)) ||
        tx_writeable(out_object, "out") || matrix_of(&a, a_object, "a", of_a->numpy, of_a->name, (npy_intp)out.rows, -1, 0))
        return NULL;
    if (K < 1 || a.columns != tx_k_padded((size_t)K) || (uintptr_t)a.data % 64 || a.ld * type->size % 64)
        return PyErr_Format(
            PyExc_ValueError,
            "a: expected 64-byte aligned rows of k = %zd elements padded to %zu, got %zu columns, rows %zu bytes apart", K,
            tx_k_padded((size_t)(K > 0 ? K : 1)), a.columns, a.ld * type->size);
    if (packed((const void **)&job.w, self, packed_object, type, out.columns, (size_t)K) ||
        (type->int8 && (floats(&job.a_scale, a_scale, "a_scale", (npy_intp)out.rows) ||
                        floats(&job.w_scale, w_scale, "w_scale", (npy_intp)out.columns))) ||
        epilogue(&job.epilogue, &e, out.rows, out.columns))
        return NULL;
    if (type->int8 && (!job.a_scale || !job.w_scale))
        return PyErr_Format(PyExc_ValueError, "a_scale and w_scale: needed");
    const Py_ssize_t N = (Py_ssize_t)out.columns, nr = (Py_ssize_t)panel_columns(self, type);
    n1 = n1 < 0 ? N : n1;
    if (n0 < 0 || n0 % nr != 0 || n1 < n0 || n1 > N)
        return PyErr_Format(PyExc_ValueError, "columns %zd..%zd: n0 must be a multiple of %zd, and n1 at most %zd", n0, n1, nr,
                            N);
    if (job.out_bf16 && job.epilogue.residual)
        return PyErr_Format(PyExc_ValueError, "residual: not with a bfloat16 result");
    job.out = out.data, job.ldo = out.ld, job.a = a.data, job.lda = a.ld;
    job.M = out.rows, job.N = out.columns, job.K = (size_t)K, job.n0 = (size_t)n0, job.n1 = (size_t)n1;
    PyObject *scratch = NULL;
    if (type->dtype == TX_INT4 && !(scratch = new_aligned(&INT4, table(self)->gemm_int4_scratch(job.K), 0, &job.scratch)))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    if (type->dtype == TX_INT4)
        table(self)->gemm_int4(&job);
    else if (type->int8)
        table(self)->gemm_int8(&job);
    else
        table(self)->gemm_bf16(&job);
    Py_END_ALLOW_THREADS
    Py_XDECREF(scratch);
    Py_RETURN_NONE;
}

static PyObject *pack_int4(PyObject *self, PyObject *args)
{
    PyObject *q_object, *s_object;
    Py_ssize_t K;
    struct matrix q, s;
    void *data;
    if (!PyArg_ParseTuple(args, "OOn", &q_object, &s_object, &K))
        return NULL;
    if (K < 1)
        return PyErr_Format(PyExc_ValueError, "k must be at least 1, got %zd", K);
    if (matrix_of(&q, q_object, "q", NPY_UINT8, "uint8", -1, (npy_intp)tx_int4_row((size_t)K), 0) ||
        matrix_of(&s, s_object, "s", NPY_UINT8, "uint8", (npy_intp)q.rows, (npy_intp)tx_int4_groups((size_t)K), 0))
        return NULL;
    if (q.ld != q.columns || s.ld != s.columns)
        return PyErr_Format(PyExc_ValueError, "q and s: must be C-contiguous");
    PyObject *result = new_aligned(&INT4, packed_size(self, &INT4, q.rows, (size_t)K), 0, &data);
    if (result)
        table(self)->gemm_int4_pack(data, q.data, s.data, q.rows, (size_t)K, 0, q.rows);
    return result;
}

static PyObject *unpack_int4(PyObject *self, PyObject *args)
{
    PyObject *object;
    Py_ssize_t N, K;
    const void *from;
    if (!PyArg_ParseTuple(args, "Onn", &object, &N, &K))
        return NULL;
    if (N < 1 || K < 1)
        return PyErr_Format(PyExc_ValueError, "n and k must be at least 1, got %zd and %zd", N, K);
    if (packed(&from, self, object, &INT4, (size_t)N, (size_t)K))
        return NULL;
    npy_intp shape[2] = {N, (npy_intp)tx_int4_row((size_t)K)}, groups[2] = {N, (npy_intp)tx_int4_groups((size_t)K)};
    PyObject *q = PyArray_SimpleNew(2, shape, NPY_UINT8), *s = PyArray_SimpleNew(2, groups, NPY_UINT8);
    if (q && s)
        table(self)->gemm_int4_unpack(PyArray_DATA((PyArrayObject *)q), PyArray_DATA((PyArrayObject *)s), from, (size_t)N,
                                      (size_t)K);
    PyObject *pair = q && s ? PyTuple_Pack(2, q, s) : NULL;
    Py_XDECREF(q);
    Py_XDECREF(s);
    return pair;
}

static PyObject *pack_bf16(PyObject *self, PyObject *w) { return pack(self, w, &BF16); }
static PyObject *pack_int8(PyObject *self, PyObject *w) { return pack(self, w, &INT8); }
static PyObject *unpack_bf16(PyObject *self, PyObject *args) { return unpack(self, args, &BF16); }
static PyObject *unpack_int8(PyObject *self, PyObject *args) { return unpack(self, args, &INT8); }
static PyObject *gemm_bf16(PyObject *self, PyObject *args, PyObject *kwargs) { return gemm(self, args, kwargs, &BF16); }
static PyObject *gemm_int8(PyObject *self, PyObject *args, PyObject *kwargs) { return gemm(self, args, kwargs, &INT8); }
static PyObject *gemm_int4(PyObject *self, PyObject *args, PyObject *kwargs) { return gemm(self, args, kwargs, &INT4); }

static PyObject *panels(PyObject *self, PyObject *none)
{
    (void)none;
    return Py_BuildValue("{s:n,s:n,s:n,s:n}", "f32", (Py_ssize_t)table(self)->gemm_f32_nr, "bf16",
                         (Py_ssize_t)table(self)->gemm_bf16_nr, "int8", (Py_ssize_t)table(self)->gemm_int8_nr, "int4",
                         (Py_ssize_t)table(self)->gemm_int4_nr);
}

/* ---- attention ---- */

typedef void attention_function(const struct tx_attention_bf16 *job);
typedef size_t scratch_function(size_t Tk, size_t Dh);

static PyObject *attention(PyObject *args, attention_function *attend, scratch_function *scratch)
{
    PyObject *q_object, *k_object, *v_object, *out_object, *bias = NULL;
    double scale = 0;
    float *memory;
    struct matrix q, k, v, out;
    if (!PyArg_ParseTuple(args, "OOOO|Od", &out_object, &q_object, &k_object, &v_object, &bias, &scale) ||
        matrix_of(&q, q_object, "q", NPY_UINT16, BF16.name, -1, -1, 0) ||
        matrix_of(&k, k_object, "k", NPY_UINT16, BF16.name, -1, (npy_intp)q.columns, 0) ||
        matrix_of(&v, v_object, "v", NPY_UINT16, BF16.name, (npy_intp)k.rows, (npy_intp)q.columns, 0) ||
        matrix_of(&out, out_object, "out", NPY_UINT16, BF16.name, (npy_intp)q.rows, (npy_intp)q.columns, 0) ||
        tx_writeable(out_object, "out"))
        return NULL;
    struct tx_attention_bf16 job = {
        .out = out.data, .ldo = out.ld, .q = q.data, .ldq = q.ld, .k = k.data, .ldk = k.ld, .v = v.data, .ldv = v.ld,
        .Tq = q.rows, .Tk = k.rows, .Dh = q.columns, .scale = (float)(scale != 0 ? scale : 1.0 / sqrt((double)q.columns)),
    };
    if (attention_bias(&memory, &job.bias, bias, job.Tq, job.Tk) || !(job.scratch = aligned(scratch(job.Tk, job.Dh)))) {
        free(memory);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    attend(&job);
    Py_END_ALLOW_THREADS
    free(job.scratch);
    free(memory);
    Py_RETURN_NONE;
}

static PyObject *attention_bf16(PyObject *self, PyObject *args)
{
    return attention(args, table(self)->attention_bf16, table(self)->attention_bf16_scratch);
}

static PyObject *attention_int8(PyObject *self, PyObject *args)
{
    return attention(args, table(self)->attention_int8, table(self)->attention_int8_scratch);
}

static PyObject *gated_bf16(PyObject *self, PyObject *args)
{
    PyObject *x_object, *y_object;
    const char *kind;
    struct matrix x, y;
    uint16_t *out;
    if (!PyArg_ParseTuple(args, "OOs", &x_object, &y_object, &kind) ||
        matrix_of(&x, x_object, "x", NPY_UINT16, BF16.name, -1, -1, 0) ||
        matrix_of(&y, y_object, "y", NPY_UINT16, BF16.name, (npy_intp)x.rows, (npy_intp)x.columns, 0))
        return NULL;
    struct tx_gated job = {.x = x.data, .y = y.data, .ldx = x.ld, .M = x.rows, .F = x.columns, .ldo = tx_k_padded(x.columns),
                           .act = activation(kind)};
    if (job.act < 0)
        return NULL;
    if (x.ld != y.ld)
        return PyErr_Format(PyExc_ValueError, "x and y: expected rows of one distance");
    PyObject *result = new_aligned(&BF16, job.M, job.ldo, &out);
    job.out = out;
    if (result)
        table(self)->gated_bf16(&job);
    return result;
}

/* ---- into bfloat16 and int8 ---- */

static PyObject *round_bf16(PyObject *self, PyObject *object)
{
    struct matrix x;
    uint16_t *data;
    if (matrix(&x, object, "x", -1, -1, 0))
        return NULL;
    PyObject *result = new_aligned(&BF16, x.rows, tx_k_padded(x.columns), &data);
    if (result)
        table(self)->round_bf16(data, tx_k_padded(x.columns), x.data, x.ld, x.rows, x.columns);
    return result;
}

/* A new [rows, columns padded] int8 matrix and its scales, as a pair. */
static PyObject *new_int8(size_t rows, size_t columns, int8_t **data, float **scale)
{
    npy_intp count = (npy_intp)rows;
    PyObject *matrix = new_aligned(&INT8, rows, tx_k_padded(columns), data),
             *scales = PyArray_SimpleNew(1, &count, NPY_FLOAT32);
    if (scales)
        *scale = PyArray_DATA((PyArrayObject *)scales);
    PyObject *pair = matrix && scales ? PyTuple_Pack(2, matrix, scales) : NULL;
    Py_XDECREF(matrix);
    Py_XDECREF(scales);
    return pair;
}

static PyObject *quantize_int8(PyObject *self, PyObject *object)
{
    struct matrix x;
    int8_t *data;
    float *scale;
    const int from_bf16 = PyArray_Check(object) && PyArray_TYPE((PyArrayObject *)object) == NPY_UINT16;
    if (from_bf16 ? matrix_of(&x, object, "x", NPY_UINT16, BF16.name, -1, -1, 0) : matrix(&x, object, "x", -1, -1, 0))
        return NULL;
    PyObject *pair = new_int8(x.rows, x.columns, &data, &scale);
    if (pair)
        table(self)->quantize_int8(data, tx_k_padded(x.columns), scale, x.data, from_bf16, x.ld, x.rows, x.columns);
    return pair;
}

static PyObject *norm_bf16(PyObject *self, PyObject *args, PyObject *kwargs)
{
    struct tx_norm_f32 job;
    uint16_t *data;
    if (norm_args(&job, args, kwargs))
        return NULL;
    job.ldo = tx_k_padded(job.D);
    PyObject *result = new_aligned(&BF16, job.M, job.ldo, &data);
    if (result)
        table(self)->norm_bf16(&job, data);
    return result;
}

static PyObject *norm_int8(PyObject *self, PyObject *args, PyObject *kwargs)
{
    struct tx_norm_f32 job;
    int8_t *data;
    float *scale;
    if (norm_args(&job, args, kwargs))
        return NULL;
    job.ldo = tx_k_padded(job.D);
    PyObject *pair = new_int8(job.M, job.D, &data, &scale);
    if (pair)
        table(self)->norm_int8(&job, data, scale);
    return pair;
}

PyMethodDef tx_kernels_narrow_methods[] = {
    {"pack_bf16", pack_bf16, METH_O, NULL},
    {"pack_int8", pack_int8, METH_O, NULL},
    {"unpack_bf16", unpack_bf16, METH_VARARGS, NULL},
    {"unpack_int8", unpack_int8, METH_VARARGS, NULL},
    {"gemm_bf16", KEYWORDS(gemm_bf16), NULL},
    {"gemm_int8", KEYWORDS(gemm_int8), NULL},
    {"pack_int4", pack_int4, METH_VARARGS, NULL},
    {"unpack_int4", unpack_int4, METH_VARARGS, NULL},
    {"gemm_int4", KEYWORDS(gemm_int4), NULL},
    {"panels", panels, METH_NOARGS, NULL},
    {"attention_bf16", attention_bf16, METH_VARARGS, NULL},
    {"attention_int8", attention_int8, METH_VARARGS, NULL},
    {"gated_bf16", gated_bf16, METH_VARARGS, NULL},
    {"round_bf16", round_bf16, METH_O, NULL},
    {"fit_int8", fit_int8, METH_VARARGS, NULL},
    {"quantize_int8", quantize_int8, METH_O, NULL},
    {"norm_bf16", KEYWORDS(norm_bf16), NULL},
    {"norm_int8", KEYWORDS(norm_int8), NULL},
    {NULL, NULL, 0, NULL},
};
