/* Arguments of the kernels' Python methods: arrays checked and taken apart. Included by kernels_py.c and kernels_narrow_py.c
 * alone. */
#ifndef TX_KERNELS_ARGS_H
#define TX_KERNELS_ARGS_H

#include "binding.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/kernels.h"

/* ---- the object ---- */

typedef struct {
    PyObject_HEAD
    int row;
    const struct tx_kernels *k;
} Kernels;

static inline const struct tx_kernels *table(PyObject *self)
{
    return ((Kernels *)self)->k;
}

/* ---- arrays ---- */

struct matrix {
    void *data;
    size_t rows, columns, ld;
};

static inline PyArrayObject *checked(PyObject *object, const char *name, int type, const char *type_name, int rank)
{
    if (!PyArray_Check(object)) {
        PyErr_Format(PyExc_ValueError, "%s: expected a NumPy array, got %S", name, (PyObject *)Py_TYPE(object));
        return NULL;
    }
    PyArrayObject *a = (PyArrayObject *)object;
    if (PyArray_TYPE(a) != type || !PyArray_ISALIGNED(a) || !PyArray_ISNOTSWAPPED(a) || PyArray_NDIM(a) != rank) {
        PyErr_Format(PyExc_ValueError, "%s: expected an aligned %s array of %d dimensions, got %S of %d", name, type_name, rank,
                     (PyObject *)PyArray_DESCR(a), PyArray_NDIM(a));
        return NULL;
    }
    return a;
}

static inline int extent(const char *name, int axis, npy_intp got, npy_intp wanted)
{
    if (got == wanted || (wanted < 0 && got > 0))
        return 0;
    if (wanted < 0)
        PyErr_Format(PyExc_ValueError, "%s: extent %d must be at least 1", name, axis);
    else
        PyErr_Format(PyExc_ValueError, "%s: extent %d is %zd, expected %zd", name, axis, (Py_ssize_t)got, (Py_ssize_t)wanted);
    return -1;
}

/* A matrix; rows or columns -1: any number from 1. None leaves data NULL where `optional`. */
static inline int matrix_of(struct matrix *m, PyObject *object, const char *name, int type, const char *type_name,
                            npy_intp rows, npy_intp columns, int optional)
{
    memset(m, 0, sizeof *m);
    if (optional && (!object || object == Py_None))
        return 0;
    PyArrayObject *a = checked(object, name, type, type_name, 2);
    if (!a || extent(name, 0, PyArray_DIM(a, 0), rows) || extent(name, 1, PyArray_DIM(a, 1), columns))
        return -1;
    const npy_intp size = PyArray_ITEMSIZE(a), step = PyArray_STRIDE(a, 0);
    if ((PyArray_DIM(a, 1) > 1 && PyArray_STRIDE(a, 1) != size) || step % size != 0 ||
        (PyArray_DIM(a, 0) > 1 && step < PyArray_DIM(a, 1) * size)) {
        PyErr_Format(PyExc_ValueError, "%s: the elements of a row must lie side by side, and rows in ascending order", name);
        return -1;
    }
    m->data = PyArray_DATA(a);
    m->rows = (size_t)PyArray_DIM(a, 0);
    m->columns = (size_t)PyArray_DIM(a, 1);
    m->ld = m->rows > 1 ? (size_t)(step / size) : m->columns;
    return 0;
}

static inline int matrix(struct matrix *m, PyObject *object, const char *name, npy_intp rows, npy_intp columns, int optional)
{
    return matrix_of(m, object, name, NPY_FLOAT32, "float32", rows, columns, optional);
}

/* A contiguous array: its data and, in *count, how many elements; count given as -1: any. */
static inline int vector(void *data, PyObject *object, const char *name, int type, const char *type_name, int rank,
                         npy_intp count, int optional)
{
    *(void **)data = NULL;
    if (optional && (!object || object == Py_None))
        return 0;
    PyArrayObject *a = checked(object, name, type, type_name, rank);
    if (!a || (rank == 1 && extent(name, 0, PyArray_DIM(a, 0), count)))
        return -1;
    if (!PyArray_ISCARRAY_RO(a)) {
        PyErr_Format(PyExc_ValueError, "%s: must be C-contiguous", name);
        return -1;
    }
    *(void **)data = PyArray_DATA(a);
    return 0;
}

static inline int floats(const float **data, PyObject *object, const char *name, npy_intp count)
{
    return vector(data, object, name, NPY_FLOAT32, "float32", 1, count, 1);
}

static inline int groups(const int32_t **data, PyObject *object, npy_intp rows, size_t limit)
{
    if (vector(data, object, "group", NPY_INT32, "int32", 1, rows, 1))
        return -1;
    for (npy_intp i = 0; *data && i < rows; i++)
        if ((*data)[i] < 0 || (size_t)(*data)[i] >= limit) {
            PyErr_Format(PyExc_ValueError, "group: %d at row %zd, but there are %zu groups", (int)(*data)[i], (Py_ssize_t)i,
                         limit);
            return -1;
        }
    return 0;
}

static inline PyObject *new_matrix(size_t rows, size_t columns, float **data)
{
    npy_intp shape[2] = {(npy_intp)rows, (npy_intp)columns};
    PyObject *a = PyArray_SimpleNew(2, shape, NPY_FLOAT32);
    if (a)
        *data = PyArray_DATA((PyArrayObject *)a);
    return a;
}

static inline int activation(const char *name)
{
    static const char *const names[TX_ACT_COUNT] = {"none", "gelu_erf", "gelu_tanh", "silu", "tanh", "quick_gelu", "relu"};
    for (int i = 0; i < TX_ACT_COUNT; i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    PyErr_Format(PyExc_ValueError, "activation %s is not known: none, gelu_erf, gelu_tanh, silu, tanh, quick_gelu, relu", name);
    return -1;
}

/* 64-byte aligned, as kernels want packed weights and scratch. Freed by free(). */
static inline void *aligned(size_t bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, 64, bytes ? bytes : 64) != 0) {
        PyErr_NoMemory();
        return NULL;
    }
    return p;
}

/* ---- epilogues ---- */

struct epilogue_args {
    PyObject *bias, *residual, *gate, *group;
    const char *activation;
};

static inline int epilogue(struct tx_epilogue_f32 *e, const struct epilogue_args *args, size_t M, size_t N)
{
    struct matrix residual, gate;
    memset(e, 0, sizeof *e);
    if (floats(&e->bias, args->bias, "bias", (npy_intp)N) || (e->act = activation(args->activation)) < 0 ||
        matrix(&residual, args->residual, "residual", (npy_intp)M, (npy_intp)N, 1) ||
        matrix(&gate, args->gate, "gate", -1, (npy_intp)N, 1) ||
        groups(&e->group, args->group, (npy_intp)M, gate.rows))
        return -1;
    if (gate.data && !residual.data) {
        PyErr_SetString(PyExc_ValueError, "gate: needs a residual");
        return -1;
    }
    e->residual = residual.data;
    e->ldr = residual.ld;
    e->gate = gate.data;
    e->ldg = gate.ld;
    return 0;
}

/* ---- norms ---- */

/* All but the output. */
static inline int norm_args(struct tx_norm_f32 *job, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"x", "eps", "weight", "bias", "shift", "scale", "group", "rms", NULL};
    PyObject *x_object, *weight = NULL, *bias = NULL, *shift_object = NULL, *scale_object = NULL, *group = NULL;
    double eps;
    struct matrix x, shift, scale;
    memset(job, 0, sizeof *job);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Od|OOOOOp", names, &x_object, &eps, &weight, &bias, &shift_object,
                                     &scale_object, &group,
                                     &job->rms) ||
        matrix(&x, x_object, "x", -1, -1, 0) || floats(&job->weight, weight, "weight", (npy_intp)x.columns) ||
        floats(&job->bias, bias, "bias", (npy_intp)x.columns) ||
        matrix(&shift, shift_object, "shift", -1, (npy_intp)x.columns, 1) ||
        matrix(&scale, scale_object, "scale", -1, (npy_intp)x.columns, 1) ||
        groups(&job->group, group, (npy_intp)x.rows, scale.rows))
        return -1;
    if ((!job->weight && job->bias) || !shift.data != !scale.data || shift.rows != scale.rows || shift.ld != scale.ld) {
        PyErr_SetString(PyExc_ValueError, "bias needs weight; shift and scale, of one shape and layout, come together");
        return -1;
    }
    job->x = x.data, job->ldx = x.ld, job->M = x.rows, job->D = x.columns, job->eps = (float)eps;
    job->shift = shift.data, job->scale = scale.data, job->ldm = shift.ld;
    return 0;
}

/* A bias [Tq + Tk - 1] as attention takes it, number i - j + Tk - 1 for row i of q and row j of k, with NaN around it, or
 * NULL; to be freed. */
static inline int attention_bias(float **memory, const float **bias, PyObject *object, size_t Tq, size_t Tk)
{
    const float *given;
    const size_t count = Tq + Tk - 1;
    *memory = NULL;
    *bias = NULL;
    if (!object || object == Py_None)
        return 0;
    if (vector(&given, object, "bias", NPY_FLOAT32, "float32", 1, (npy_intp)count, 0))
        return -1;
    if (!(*memory = malloc((count + 2 * TX_BIAS_SLACK) * sizeof **memory))) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < count + 2 * TX_BIAS_SLACK; i++)
        (*memory)[i] = i >= TX_BIAS_SLACK && i < TX_BIAS_SLACK + count ? given[i - TX_BIAS_SLACK] : NAN;
    *bias = *memory + TX_BIAS_SLACK + Tk - 1;
    return 0;
}

#define KEYWORDS(f) (PyCFunction)(void (*)(void))f, METH_VARARGS | METH_KEYWORDS

/* kernels_narrow_py.c: the methods of bfloat16 and int8, ended by a NULL name. */
extern PyMethodDef tx_kernels_narrow_methods[];

#endif
