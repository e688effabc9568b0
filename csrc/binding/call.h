/* A call of the engine from Python: signals, callbacks, traces and records need the GIL back for a moment. Included by
 * model_py.c alone. */
#ifndef TX_CALL_H
#define TX_CALL_H

#include "binding.h"

#include <string.h>
#include <time.h>

struct model_object {
    PyObject_HEAD
    struct tx_model *model;
    PyObject *recorder;     /* called with what products take, or NULL */
};

static struct tx_model *model_of(PyObject *self)
{
    return ((struct model_object *)self)->model;
}

struct call {
    struct tx_call c;
    struct tx_error err;
    PyThreadState *thread;
    struct timespec last_tick;
    PyObject *trace;        /* dict or NULL */
    PyObject *recorder;     /* or NULL; the call's own reference */
    int trace_failed;
    PyObject *callback;     /* sample only */
    PyObject *x;
    PyObject *copies[4];    /* see copied() */
    int copy_count;
};

static void let_go(struct call *call)
{
    Py_CLEAR(call->recorder);
    while (call->copy_count > 0)
        Py_DECREF(call->copies[--call->copy_count]);
}

/* A call on the stack, which lets go of what it holds wherever its function returns. Begins as {0}. */
#define CALL struct call __attribute__((cleanup(let_go)))

/* The data of an array [count] (-1: any) whose numbers decide where memory is read and written: of a copy, held by the call,
 * which is what gets checked. Into the array itself anybody may write as soon as the GIL is given up. */
static const void *copied(struct call *call, PyObject *object, const char *name, int type, Py_ssize_t count)
{
    const void *values = tx_array(object, name, type, 1, &count);
    if (!values)
        return NULL;
    count = tx_array_extent(object, 0);
    PyObject *copy = PyArray_SimpleNew(1, &count, type);
    if (!copy)
        return NULL;
    call->copies[call->copy_count++] = copy;
    return memcpy(PyArray_DATA((PyArrayObject *)copy), values, (size_t)PyArray_NBYTES((PyArrayObject *)copy));
}

enum { TICK_MS = 20 };      /* how often to look for Ctrl-C; taking the GIL back may mean waiting for another thread */

static int tick(void *arg)
{
    struct call *call = arg;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const long ms = (now.tv_sec - call->last_tick.tv_sec) * 1000 + (now.tv_nsec - call->last_tick.tv_nsec) / 1000000;
    if (call->trace_failed)
        return 1;
    if (ms < TICK_MS)
        return 0;
    call->last_tick = now;
    PyEval_RestoreThread(call->thread);
    const int stop = PyErr_CheckSignals();
    call->thread = PyEval_SaveThread();
    return stop;
}

static PyObject *copy_of(const float *x, size_t rows, size_t D, size_t ld)
{
    npy_intp shape[2] = {(npy_intp)rows, (npy_intp)D};
    PyObject *copy = PyErr_Occurred() ? NULL : PyArray_SimpleNew(2, shape, NPY_FLOAT32);
    for (size_t r = 0; copy && r < rows; r++)
        memcpy((float *)PyArray_DATA((PyArrayObject *)copy) + r * D, x + r * ld, D * sizeof *x);
    return copy;
}

/* trace[name] grows by a copy of the rows: a call that computes its images in parts shows each part. */
static void tap(void *arg, const char *name, const float *x, size_t rows, size_t D, size_t ld)
{
    struct call *call = arg;
    PyEval_RestoreThread(call->thread);
    PyObject *copy = copy_of(x, rows, D, ld), *list = NULL;
    if (copy) {
        list = PyDict_GetItemString(call->trace, name);
        Py_XINCREF(list);
        if (!list && (list = PyList_New(0)) && PyDict_SetItemString(call->trace, name, list) < 0)
            Py_CLEAR(list);
    }
    if (!copy || !list || PyList_Append(list, copy) < 0)
        call->trace_failed = 1;
    Py_XDECREF(list);
    Py_XDECREF(copy);
    call->thread = PyEval_SaveThread();
}

/* recorder(name of the weight, rows) for each product. */
static void record(void *arg, const char *name, const float *x, size_t rows, size_t D, size_t ld)
{
    struct call *call = arg;
    PyEval_RestoreThread(call->thread);
    PyObject *copy = copy_of(x, rows, D, ld);
    PyObject *result = copy ? PyObject_CallFunction(call->recorder, "sO", name, copy) : NULL;
    if (!result)
        call->trace_failed = 1;
    Py_XDECREF(copy);
    Py_XDECREF(result);
    call->thread = PyEval_SaveThread();
}

static int after_step(void *arg, size_t step)
{
    struct call *call = arg;
    int stop = 0;
    PyEval_RestoreThread(call->thread);
    if (call->callback) {
        PyObject *result = PyObject_CallFunction(call->callback, "nO", (Py_ssize_t)step, call->x);
        stop = !result;
        Py_XDECREF(result);
    }
    stop = stop || PyErr_CheckSignals();
    call->thread = PyEval_SaveThread();
    return stop;
}

static int threads_given(int threads)
{
    if (threads >= 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "threads: expected 1 or more, or 0 for all, got %d", threads);
    return -1;
}

static int begin(struct call *call, PyObject *self, int threads, PyObject *trace)
{
    call->c = (struct tx_call){.threads = threads, .tick = tick, .tick_arg = call, .tap_arg = call, .err = &call->err};
    clock_gettime(CLOCK_MONOTONIC, &call->last_tick);
    if (threads_given(threads) < 0)
        return -1;
    if (trace && trace != Py_None) {
        if (!PyDict_Check(trace)) {
            PyErr_SetString(PyExc_TypeError, "trace: expected a dict or None");
            return -1;
        }
        call->trace = trace;
        call->c.tap = tap;
    }
    /* Held: whoever runs meanwhile, the recorder itself too, may give the model another. */
    TX_LOCK(self);
    call->recorder = Py_XNewRef(((struct model_object *)self)->recorder);
    TX_UNLOCK();
    call->c.record = call->recorder ? record : NULL;
    return 0;
}

static PyObject *end(struct call *call, enum tx_status status)
{
    if (PyErr_Occurred())
        return NULL;
    if (status != TX_OK)
        return tx_raise(&call->err);
    Py_RETURN_NONE;
}

#endif
