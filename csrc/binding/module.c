/* The module textok._core: what CPU and kernels there are, threads, and the two types. */
#define TX_IMPORT_ARRAY
#include "binding.h"

#include <stdlib.h>

#include "../base/cpu.h"
#include "../base/pool.h"
#include "../model/linear.h"

const struct tx_kernels *tx_active_kernels;
static int active_row;

int tx_put(PyObject *dict, const char *key, PyObject *value)
{
    const int result = value ? PyDict_SetItemString(dict, key, value) : -1;
    Py_XDECREF(value);
    return result;
}

static PyObject *features(void)
{
    PyObject *dict = PyDict_New();
    for (int i = 0; dict && tx_cpu_bit_name(i); i++)
        if (tx_put(dict, tx_cpu_bit_name(i), PyBool_FromLong((tx_cpu_bits() >> i) & 1)) < 0)
            Py_CLEAR(dict);
    return dict;
}

static PyObject *rows_here(void)
{
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < tx_num_rows; i++) {
        if ((tx_cpu_bits() & tx_rows[i]->needs) != tx_rows[i]->needs)
            continue;
        PyObject *name = PyUnicode_FromString(tx_rows[i]->name);
        if (!name || PyList_Append(list, name) < 0)
            Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

static PyObject *cpu_info(PyObject *module, PyObject *none)
{
    (void)module;
    (void)none;
    PyObject *dict = PyDict_New();
    if (!dict || tx_put(dict, "isa", PyUnicode_FromString(tx_rows[active_row]->name)) < 0 ||
        tx_put(dict, "rows", rows_here()) < 0 || tx_put(dict, "features", features()) < 0 ||
        tx_put(dict, "kernels", tx_slot_rows(active_row)) < 0 ||
        tx_put(dict, "gemm", PyUnicode_FromString(tx_active_kernels->gemm_f32_fast ? "own" : "openblas")) < 0 ||
        tx_put(dict, "threads", PyLong_FromLong(tx_pool_threads())) < 0 ||
        tx_put(dict, "cpus", PyLong_FromLong(tx_cpu_count())) < 0 ||
        tx_put(dict, "openblas", PyUnicode_FromString(tx_blas_config())) < 0)
        Py_CLEAR(dict);
    return dict;
}

static PyObject *set_num_threads(PyObject *module, PyObject *arg)
{
    (void)module;
    if (PyBool_Check(arg))
        return PyErr_Format(PyExc_TypeError, "set_num_threads: expected an integer, got %R", arg);
    int beyond = 0;
    const long n = PyLong_AsLongAndOverflow(arg, &beyond);
    if (n == -1 && PyErr_Occurred())
        return NULL;
    if (beyond || n < 1 || n > TX_MAX_THREADS)
        return PyErr_Format(PyExc_ValueError, "set_num_threads: expected 1 to %d, got %R", TX_MAX_THREADS, arg);
    tx_pool_set_threads((int)n);
    Py_RETURN_NONE;
}

static PyObject *get_num_threads(PyObject *module, PyObject *none)
{
    (void)module;
    (void)none;
    return PyLong_FromLong(tx_pool_threads());
}

static PyObject *cpu_quota(PyObject *module, PyObject *args)
{
    (void)module;
    const char *root = "";
    return PyArg_ParseTuple(args, "|s:cpu_quota", &root) ? PyLong_FromLong(tx_cpu_quota(root)) : NULL;
}

static int exec_module(PyObject *module)
{
    if (PyArray_ImportNumPyAPI() < 0)
        return -1;
    char err[256];
    const int row = tx_choose_row(getenv("TEXTOK_ISA"), err, sizeof err);
    if (row < 0) {
        PyErr_SetString(PyExc_ImportError, err);
        return -1;
    }
    active_row = row;
    tx_active_kernels = tx_kernels_row(row);
    tx_blas_init();
    return tx_add_model_type(module) < 0 || tx_add_kernels_type(module) < 0 ? -1 : 0;
}

static PyMethodDef methods[] = {
    {"cpu_info", cpu_info, METH_NOARGS,
     "cpu_info($module)\n--\n\n"
     "What this CPU can run and which kernels are in use: a dict with the active row \"isa\", the \"rows\" that\n"
     "run here, the CPU's \"features\", the row of each of the \"kernels\", whose float32 products it takes (\"gemm\":\n"
     "\"own\" or \"openblas\"), \"threads\", \"cpus\" that the process may use, and the build of \"openblas\"."},
    {"set_num_threads", set_num_threads, METH_O,
     "set_num_threads($module, n, /)\n--\n\n"
     "How many threads a call may use from now on, 1 to 256, however many CPUs there are; ValueError for others."},
    {"get_num_threads", get_num_threads, METH_NOARGS,
     "get_num_threads($module)\n--\n\n"
     "How many threads a call may use: those of `set_num_threads`; else as many as the calling thread has CPUs now,\n"
     "within TEXTOK_NUM_THREADS, or else OMP_NUM_THREADS, and the container's quota."},
    {"cpu_quota", cpu_quota, METH_VARARGS, "CPUs that the cgroup's quotas allow; 0: no limit."},
    {"weight_table", (PyCFunction)(void (*)(void))tx_weight_table, METH_VARARGS,
     "weight_table(model_type, config) -> [(name, shape)]"},
    {0},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)exec_module},
#ifdef Py_mod_gil /* 3.13 and on; the limited API of 3.11 does not know it, and its builds run with the GIL */
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "textok._core",
    .m_doc = "The C engine: exact arrays in, exact arrays out. Use textok.TexTok and textok.DiT.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
