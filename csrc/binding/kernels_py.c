/* textok._core.Kernels: every slot of one ISA row, callable from Python for tests and benchmarks; those of bfloat16 and int8
 * are in kernels_narrow_py.c. _core.pyi has the signatures.
 *
 * Matrices may be views with any distance between rows (elements of a row side by side); vectors are contiguous. Each call
 * checks shapes and dtypes, takes scratch from malloc, and runs one kernel without the GIL. No arithmetic here. */
#include <math.h>

#include "kernels_args.h"

/* ---- gemm ---- */

static PyObject *pack_f32(PyObject *self, PyObject *object)
{
    struct matrix w;
    if (matrix(&w, object, "w", -1, -1, 0))
        return NULL;
    if (w.ld != w.columns) {
        PyErr_SetString(PyExc_ValueError, "w: must be C-contiguous");
        return NULL;
    }
    /* NumPy aligns to 16 bytes: the array is a view from the first multiple of 64 on. */
    const size_t n = table(self)->gemm_f32_packed(w.rows, w.columns);
    npy_intp with_slack = (npy_intp)n + 16;
    PyObject *whole = PyArray_SimpleNew(1, &with_slack, NPY_FLOAT32);
    if (!whole)
        return NULL;
    float *data = PyArray_DATA((PyArrayObject *)whole);
    const size_t skip = (64 - (size_t)(uintptr_t)data % 64) % 64 / sizeof(float);
    Py_BEGIN_ALLOW_THREADS
    table(self)->gemm_f32_pack(data + skip, w.data, w.rows, w.columns, 0, w.rows);
    Py_END_ALLOW_THREADS
    PyObject *view = PySequence_GetSlice(whole, (Py_ssize_t)skip, (Py_ssize_t)(skip + n));
    Py_DECREF(whole);
    return view;
}

static int packed(const float **data, PyObject *self, PyObject *object, size_t N, size_t K)
{
    if (vector(data, object, "packed", NPY_FLOAT32, "float32", 1, (npy_intp)table(self)->gemm_f32_packed(N, K), 0))
        return -1;
    if ((uintptr_t)*data % 64 == 0)
        return 0;
    PyErr_SetString(PyExc_ValueError, "packed: must be 64-byte aligned, as pack_f32 makes it");
    return -1;
}

static PyObject *unpack_f32(PyObject *self, PyObject *args)
{
    PyObject *object;
    Py_ssize_t N, K;
    const float *from;
    float *w;
    if (!PyArg_ParseTuple(args, "Onn", &object, &N, &K))
        return NULL;
    if (N < 1 || K < 1)
        return PyErr_Format(PyExc_ValueError, "n and k must be at least 1, got %zd and %zd", N, K);
    if (packed(&from, self, object, (size_t)N, (size_t)K))
        return NULL;
    PyObject *result = new_matrix((size_t)N, (size_t)K, &w);
    if (result)
        table(self)->gemm_f32_unpack(w, from, (size_t)N, (size_t)K);
    return result;
}

static PyObject *gemm_packed_f32(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"out", "a", "packed", "bias", "activation", "residual", "gate", "group", "n0", "n1", NULL};
    struct epilogue_args e = {.activation = "none"};
    PyObject *out_object, *a_object, *packed_object;
    Py_ssize_t n0 = 0, n1 = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|OsOOOnn", names, &out_object, &a_object, &packed_object, &e.bias,
                                     &e.activation, &e.residual, &e.gate, &e.group, &n0, &n1))
        return NULL;
    struct matrix out, a;
    struct tx_gemm_f32 job = {0};
    if (matrix(&out, out_object, "out", -1, -1, 0) || tx_writeable(out_object, "out") ||
        matrix(&a, a_object, "a", (npy_intp)out.rows, -1, 0) || packed(&job.w, self, packed_object, out.columns, a.columns) ||
        epilogue(&job.epilogue, &e, out.rows, out.columns))
        return NULL;
    const Py_ssize_t N = (Py_ssize_t)out.columns;
    n1 = n1 < 0 ? N : n1;
    if (n0 < 0 || n0 % (Py_ssize_t)table(self)->gemm_f32_nr != 0 || n1 < n0 || n1 > N)
        return PyErr_Format(PyExc_ValueError, "columns %zd..%zd: n0 must be a multiple of %zu, and n1 at most %zd", n0, n1,
                            table(self)->gemm_f32_nr, N);
    job.out = out.data, job.ldo = out.ld, job.a = a.data, job.lda = a.ld;
    job.M = out.rows, job.N = out.columns, job.K = a.columns, job.n0 = (size_t)n0, job.n1 = (size_t)n1;
    Py_BEGIN_ALLOW_THREADS
    table(self)->gemm_f32(&job);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *gemm_f32(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"a", "w", "bias", "activation", "residual", "gate", "group", NULL};
    struct epilogue_args e = {.activation = "none"};
    PyObject *a_object, *w_object;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|OsOOO", names, &a_object, &w_object, &e.bias, &e.activation, &e.residual,
                                     &e.gate, &e.group))
        return NULL;
    struct matrix a, w;
    struct tx_gemm_f32 job = {0};
    if (matrix(&a, a_object, "a", -1, -1, 0) || matrix(&w, w_object, "w", -1, (npy_intp)a.columns, 0) ||
        epilogue(&job.epilogue, &e, a.rows, w.rows))
        return NULL;
    PyObject *packed_w = pack_f32(self, w_object), *result = NULL;
    if (packed_w && (result = new_matrix(a.rows, w.rows, &job.out))) {
        job.w = PyArray_DATA((PyArrayObject *)packed_w);
        job.ldo = w.rows, job.a = a.data, job.lda = a.ld;
        job.M = a.rows, job.N = w.rows, job.K = a.columns, job.n1 = w.rows;
        Py_BEGIN_ALLOW_THREADS
        table(self)->gemm_f32(&job);
        Py_END_ALLOW_THREADS
    }
    Py_XDECREF(packed_w);
    return result;
}

static PyObject *epilogue_f32(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"acc", "bias", "activation", "residual", "gate", "group", NULL};
    struct epilogue_args e = {.activation = "none"};
    PyObject *object;
    struct matrix acc;
    struct tx_epilogue_f32 job;
    float *out;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OsOOO", names, &object, &e.bias, &e.activation, &e.residual, &e.gate,
                                     &e.group) ||
        matrix(&acc, object, "acc", -1, -1, 0) || epilogue(&job, &e, acc.rows, acc.columns))
        return NULL;
    PyObject *result = new_matrix(acc.rows, acc.columns, &out);
    if (result)
        table(self)->epilogue_f32(out, acc.columns, acc.data, acc.ld, acc.rows, acc.columns, &job);
    return result;
}

/* ---- attention, norm, activations ---- */

static PyObject *attention_f32(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"q", "k", "v", "out", "bias", "scale", NULL};
    PyObject *q_object, *k_object, *v_object, *out_object = NULL, *bias = NULL;
    double scale = 0;
    float *memory;
    struct matrix q, k, v, out;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|OOd", names, &q_object, &k_object, &v_object, &out_object, &bias,
                                     &scale) ||
        matrix(&q, q_object, "q", -1, -1, 0) || matrix(&k, k_object, "k", -1, (npy_intp)q.columns, 0) ||
        matrix(&v, v_object, "v", (npy_intp)k.rows, (npy_intp)q.columns, 0) ||
        matrix(&out, out_object, "out", (npy_intp)q.rows, (npy_intp)q.columns, 1))
        return NULL;
    struct tx_attention_f32 job = {
        .ldo = q.columns, .q = q.data, .ldq = q.ld, .k = k.data, .ldk = k.ld, .v = v.data, .ldv = v.ld,
        .Tq = q.rows, .Tk = k.rows, .Dh = q.columns, .scale = (float)(scale != 0 ? scale : 1.0 / sqrt((double)q.columns)),
    };
    PyObject *result;
    if (out.data && tx_writeable(out_object, "out"))
        return NULL;
    if (out.data) {
        result = Py_NewRef(out_object);
        job.out = out.data, job.ldo = out.ld;
    } else if (!(result = new_matrix(q.rows, q.columns, &job.out))) {
        return NULL;
    }
    if (attention_bias(&memory, &job.bias, bias, job.Tq, job.Tk) ||
        !(job.scratch = aligned(table(self)->attention_f32_scratch(job.Tk, job.Dh)))) {
        free(memory);
        Py_DECREF(result);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    table(self)->attention_f32(&job);
    Py_END_ALLOW_THREADS
    free(job.scratch);
    free(memory);
    return result;
}

static PyObject *norm_f32(PyObject *self, PyObject *args, PyObject *kwargs)
{
    struct tx_norm_f32 job;
    if (norm_args(&job, args, kwargs))
        return NULL;
    PyObject *result = new_matrix(job.M, job.D, &job.out);
    if (!result)
        return NULL;
    job.ldo = job.D;
    Py_BEGIN_ALLOW_THREADS
    table(self)->norm_f32(&job);
    Py_END_ALLOW_THREADS
    return result;
}

static PyObject *activate_f32(PyObject *self, PyObject *args)
{
    PyObject *object;
    const char *kind;
    const float *x;
    if (!PyArg_ParseTuple(args, "Os", &object, &kind) || vector(&x, object, "x", NPY_FLOAT32, "float32", 1, -1, 0))
        return NULL;
    const int act = activation(kind);
    if (act < 0)
        return NULL;
    npy_intp n = PyArray_DIM((PyArrayObject *)object, 0);
    PyObject *result = PyArray_SimpleNew(1, &n, NPY_FLOAT32);
    if (!result)
        return NULL;
    float *out = PyArray_DATA((PyArrayObject *)result);
    Py_BEGIN_ALLOW_THREADS
    table(self)->activate_f32(out, x, (size_t)n, act);
    Py_END_ALLOW_THREADS
    return result;
}

static PyObject *gated_f32(PyObject *self, PyObject *args)
{
    PyObject *x_object, *y_object;
    const char *kind;
    struct matrix x, y;
    if (!PyArg_ParseTuple(args, "OOs", &x_object, &y_object, &kind) || matrix(&x, x_object, "x", -1, -1, 0) ||
        matrix(&y, y_object, "y", (npy_intp)x.rows, (npy_intp)x.columns, 0))
        return NULL;
    struct tx_gated job = {.x = x.data, .y = y.data, .ldx = x.ld, .M = x.rows, .F = x.columns, .ldo = x.columns,
                           .act = activation(kind)};
    if (job.act < 0)
        return NULL;
    if (x.ld != y.ld)
        return PyErr_Format(PyExc_ValueError, "x and y: expected rows of one distance");
    float *out;
    PyObject *result = new_matrix(job.M, job.F, &out);
    job.out = out;
    if (result)
        table(self)->gated_f32(&job);
    return result;
}

/* ---- rotary positions, steps and patches ---- */

static PyObject *rotate_f32(PyObject *self, PyObject *args)
{
    PyObject *object, *angles;
    struct matrix x, turns;
    if (!PyArg_ParseTuple(args, "OO", &object, &angles) || matrix_of(&x, object, "x", NPY_FLOAT32, "float32", -1, -1, 0) ||
        tx_writeable(object, "x") || matrix_of(&turns, angles, "turns", NPY_FLOAT32, "float32", x.rows, x.columns, 0))
        return NULL;
    if (x.columns % 2)
        return PyErr_Format(PyExc_ValueError, "x: expected an even number of columns, got %zu", x.columns);
    table(self)->rotate_f32(x.data, x.ld, turns.data, turns.ld, x.rows, x.columns);
    Py_RETURN_NONE;
}

static PyObject *rotate_bf16(PyObject *self, PyObject *args)
{
    PyObject *object, *angles;
    struct matrix x, turns;
    if (!PyArg_ParseTuple(args, "OO", &object, &angles) ||
        matrix_of(&x, object, "x", NPY_UINT16, "uint16 (bfloat16)", -1, -1, 0) || tx_writeable(object, "x") ||
        matrix_of(&turns, angles, "turns", NPY_FLOAT32, "float32", x.rows, x.columns, 0))
        return NULL;
    if (x.columns % 2)
        return PyErr_Format(PyExc_ValueError, "x: expected an even number of columns, got %zu", x.columns);
    table(self)->rotate_bf16(x.data, x.ld, turns.data, turns.ld, x.rows, x.columns);
    Py_RETURN_NONE;
}

static PyObject *step_f32(PyObject *self, PyObject *args)
{
    PyObject *x, *x0_prev, *m, *v, *noise, *u;
    struct tx_step_f32 job = {0};
    if (!PyArg_ParseTuple(args, "OOOOOO", &x, &x0_prev, &m, &v, &noise, &u) ||
        vector(&job.x, x, "x", NPY_FLOAT32, "float32", 1, -1, 0) || tx_writeable(x, "x"))
        return NULL;
    const npy_intp n = PyArray_DIM((PyArrayObject *)x, 0);
    if (vector(&job.x0_prev, x0_prev, "x0_prev", NPY_FLOAT32, "float32", 1, n, 0) || tx_writeable(x0_prev, "x0_prev") ||
        vector(&job.m, m, "m", NPY_FLOAT32, "float32", 1, n, 0) || floats(&job.v, v, "v", n) ||
        floats(&job.noise, noise, "noise", n) || vector(&job.u, u, "u", NPY_FLOAT64, "float64", 1, 10, 0))
        return NULL;
    job.n = (size_t)n;
    table(self)->step_f32(&job);
    Py_RETURN_NONE;
}

/* S pixels in patches of p with an overlap of o, or an exception. */
static int cut_of(struct tx_patches *cut, Py_ssize_t S, Py_ssize_t p, Py_ssize_t o)
{
    if (p < 1 || S < 1 || S % p)
        PyErr_Format(PyExc_ValueError, "image: %zd pixels do not divide into patches of %zd", S, p);
    else if (o < 0 || o > p / 2)
        PyErr_Format(PyExc_ValueError, "overlap: expected 0 to %zd, half of a patch, got %zd", p / 2, o);
    else
        *cut = (struct tx_patches){(size_t)S, (size_t)p, (size_t)o};
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *patchify(PyObject *self, PyObject *args)
{
    PyObject *object;
    Py_ssize_t p, o = 0;
    void *image;
    float *patches;
    struct tx_patches cut;
    if (!PyArg_ParseTuple(args, "On|n", &object, &p, &o))
        return NULL;
    const int bytes = PyArray_Check(object) && PyArray_TYPE((PyArrayObject *)object) == NPY_UINT8;
    if (vector(&image, object, "image", bytes ? NPY_UINT8 : NPY_FLOAT32, "uint8 or float32", 3, -1, 0))
        return NULL;
    const npy_intp S = PyArray_DIM((PyArrayObject *)object, 0);
    if (extent("image", 1, PyArray_DIM((PyArrayObject *)object, 1), S) ||
        extent("image", 2, PyArray_DIM((PyArrayObject *)object, 2), 3) || cut_of(&cut, S, p, o))
        return NULL;
    const size_t side = (size_t)(S / p), columns = (size_t)(3 * (p + 2 * o) * (p + 2 * o));
    PyObject *result = new_matrix(side * side, columns, &patches);
    if (result && bytes)
        table(self)->patchify_u8(patches, columns, image, cut);
    else if (result)
        table(self)->patchify_f32(patches, columns, image, cut);
    return result;
}

static PyObject *unpatchify(PyObject *self, PyObject *args)
{
    PyObject *object;
    Py_ssize_t S, p, o = 0;
    int bytes;
    struct matrix patches;
    struct tx_patches cut;
    if (!PyArg_ParseTuple(args, "Onnp|n", &object, &S, &p, &bytes, &o) || cut_of(&cut, S, p, o))
        return NULL;
    if (matrix(&patches, object, "patches", S / p * (S / p), 3 * (p + 2 * o) * (p + 2 * o), 0))
        return NULL;
    npy_intp shape[3] = {S, S, 3};
    PyObject *result = PyArray_SimpleNew(3, shape, bytes ? NPY_UINT8 : NPY_FLOAT32);
    if (result && bytes)
        table(self)->unpatchify_u8(PyArray_DATA((PyArrayObject *)result), patches.data, patches.ld, cut);
    else if (result)
        table(self)->unpatchify_f32(PyArray_DATA((PyArrayObject *)result), patches.data, patches.ld, cut);
    return result;
}

/* ---- the row ---- */

PyObject *tx_slot_rows(int row)
{
    PyObject *dict = PyDict_New();
#define SLOT(slot)                                                                      \
    if (dict && tx_put(dict, #slot, PyUnicode_FromString(tx_slot_row(row, #slot))) < 0) \
        Py_CLEAR(dict);
    TXK_SLOTS(SLOT, TXK_NOT_WITH)
#undef SLOT
    return dict;
}

static PyObject *slots(PyObject *self, PyObject *none)
{
    (void)none;
    return tx_slot_rows(((Kernels *)self)->row);
}

static PyObject *register_rounds(PyObject *self, PyObject *args)
{
    static const char *const names[TX_DTYPE_COUNT] = {
        [TX_F32] = "f32", [TX_BF16] = "bf16", [TX_INT8] = "int8", [TX_INT4] = "int4"};
    Py_ssize_t rounds;
    const char *name = "f32";
    int dtype = 0;
    if (!PyArg_ParseTuple(args, "n|s", &rounds, &name))
        return NULL;
    if (rounds < 0)
        return PyErr_Format(PyExc_ValueError, "rounds must not be negative, got %zd", rounds);
    while (dtype < TX_DTYPE_COUNT && strcmp(name, names[dtype]) != 0)
        dtype++;
    if (dtype == TX_DTYPE_COUNT)
        return PyErr_Format(PyExc_ValueError, "dtype %s is not known; choose from f32, bf16, int8, int4", name);
    tx_peak_loop *peak = tx_row_peak(((Kernels *)self)->row, dtype);
    if (!peak)
        return PyErr_Format(PyExc_NotImplementedError, "row %s has no loop in registers for %s",
                            tx_rows[((Kernels *)self)->row]->name, name);
    double operations;
    Py_BEGIN_ALLOW_THREADS
    operations = peak((size_t)rounds);
    Py_END_ALLOW_THREADS
    return PyFloat_FromDouble(operations);
}

/* ---- the type ---- */

static int kernels_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"isa", NULL};
    const char *isa;
    char err[256];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s", names, &isa))
        return -1;
    const int row = tx_choose_row(isa, err, sizeof err);
    if (row < 0 || !*isa) {
        PyErr_SetString(PyExc_ValueError, row < 0 ? err : "isa: an empty name");
        return -1;
    }
    ((Kernels *)self)->row = row;
    ((Kernels *)self)->k = tx_kernels_row(row);
    return 0;
}

static PyObject *kernels_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args, (void)kwargs;
    PyObject *self = ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self)
        ((Kernels *)self)->k = tx_kernels_row(0); /* never NULL, even where __init__ was not run */
    return self;
}

static void kernels_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"pack_f32", pack_f32, METH_O, NULL},
    {"unpack_f32", unpack_f32, METH_VARARGS, NULL},
    {"gemm_f32", KEYWORDS(gemm_f32), NULL},
    {"gemm_packed_f32", KEYWORDS(gemm_packed_f32), NULL},
    {"epilogue_f32", KEYWORDS(epilogue_f32), NULL},
    {"attention_f32", KEYWORDS(attention_f32), NULL},
    {"norm_f32", KEYWORDS(norm_f32), NULL},
    {"activate_f32", activate_f32, METH_VARARGS, NULL},
    {"gated_f32", gated_f32, METH_VARARGS, NULL},
    {"rotate_f32", rotate_f32, METH_VARARGS, NULL},
    {"rotate_bf16", rotate_bf16, METH_VARARGS, NULL},
    {"step_f32", step_f32, METH_VARARGS, NULL},
    {"patchify", patchify, METH_VARARGS, NULL},
    {"unpatchify", unpatchify, METH_VARARGS, NULL},
    {"slots", slots, METH_NOARGS, NULL},
    {"register_rounds", register_rounds, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int tx_add_kernels_type(PyObject *module)
{
    /* Both files' methods in one table, which must outlive the type. */
    static PyMethodDef all[48];
    size_t n = 0;
    for (const PyMethodDef *m = methods; m->ml_name; m++)
        all[n++] = *m;
    for (const PyMethodDef *m = tx_kernels_narrow_methods; m->ml_name; m++)
        all[n++] = *m;
    PyType_Slot slots[] = {
        {Py_tp_doc, "The slots of one ISA row, for tests and benchmarks."},
        {Py_tp_new, kernels_new},
        {Py_tp_init, kernels_init},
        {Py_tp_dealloc, kernels_dealloc},
        {Py_tp_methods, all},
        {0, NULL},
    };
    PyType_Spec spec = {
        .name = "textok._core.Kernels", .basicsize = sizeof(Kernels), .flags = Py_TPFLAGS_DEFAULT, .slots = slots};
    PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);
    const int status = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
    Py_XDECREF(type);
    return status;
}
