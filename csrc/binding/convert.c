/* Between Python and C: arrays, configs, errors. */
#include "binding.h"

#include <stdio.h>
#include <string.h>

PyObject *tx_raise(const struct tx_error *err)
{
    if (PyErr_Occurred())
        return NULL;
    PyErr_SetString(err->status == TX_ENOMEM ? PyExc_MemoryError : PyExc_ValueError, err->text);
    return NULL;
}

static const char *type_name(int type)
{
    switch (type) {
    case NPY_FLOAT32: return "float32";
    case NPY_FLOAT64: return "float64";
    case NPY_UINT8: return "uint8";
    case NPY_INT32: return "int32";
    case NPY_UINT16: return "uint16";
    case NPY_INT8: return "int8";
    default: return "another dtype";
    }
}

static void shape_text(char *text, size_t size, int rank, const Py_ssize_t *shape)
{
    size_t n = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank && n < size; i++) {
        const char *comma = i ? "," : "";
        n += (size_t)(shape[i] < 0 ? snprintf(text + n, size - n, "%s*", comma)
                                   : snprintf(text + n, size - n, "%s%zd", comma, shape[i]));
    }
    if (n < size)
        snprintf(text + n, size - n, "]");
}

int tx_is_type(PyObject *object, int type)
{
    return PyArray_Check(object) && PyArray_TYPE((PyArrayObject *)object) == type;
}

int tx_writeable(PyObject *array, const char *name)
{
    if (PyArray_ISWRITEABLE((PyArrayObject *)array))
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected an array that can be written to", name);
    return -1;
}

Py_ssize_t tx_array_extent(PyObject *array, int axis)
{
    return PyArray_DIM((PyArrayObject *)array, axis);
}

void *tx_array(PyObject *object, const char *name, int type, int rank, const Py_ssize_t *shape)
{
    char wanted[128], came[128];
    shape_text(wanted, sizeof wanted, rank, shape);
    if (!PyArray_Check(object)) {
        PyErr_Format(PyExc_ValueError, "%s: expected a NumPy array %s %s, got %R", name, type_name(type), wanted,
                     (PyObject *)Py_TYPE(object));
        return NULL;
    }
    PyArrayObject *array = (PyArrayObject *)object;
    int fits = PyArray_NDIM(array) == rank;
    for (int i = 0; fits && i < rank; i++)
        fits = shape[i] < 0 || PyArray_DIM(array, i) == shape[i];
    if (PyArray_TYPE(array) != type || !PyArray_ISCARRAY_RO(array) || !fits) {
        const int known = PyArray_NDIM(array) <= 8;
        Py_ssize_t dims[8];
        for (int i = 0; known && i < PyArray_NDIM(array); i++)
            dims[i] = PyArray_DIM(array, i);
        shape_text(came, sizeof came, known ? PyArray_NDIM(array) : 0, dims);
        PyErr_Format(PyExc_ValueError, "%s: expected a C-contiguous %s array %s, got %s %s%s", name, type_name(type), wanted,
                     type_name(PyArray_TYPE(array)), came,
                     PyArray_ISCARRAY_RO(array) ? "" : " (not contiguous or not aligned)");
        return NULL;
    }
    return PyArray_DATA(array);
}

static int bad(const char *where, const char *name, PyObject *value, const char *expected)
{
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_TypeError) && !PyErr_ExceptionMatches(PyExc_OverflowError) &&
        !PyErr_ExceptionMatches(PyExc_ValueError))
        return -1;
    PyErr_Clear();
    PyErr_Format(PyExc_ValueError, "config: %s%s is %R, expected %s", where, name, value, expected);
    return -1;
}

static int choice(PyObject *value, const char *const *choices, size_t *out)
{
    Py_ssize_t size;
    const char *text = PyUnicode_Check(value) ? PyUnicode_AsUTF8AndSize(value, &size) : NULL;
    for (size_t i = 0; text && choices[i]; i++)
        if (strcmp(text, choices[i]) == 0) {
            *out = i;
            return 0;
        }
    return -1;
}

static int set_field(PyObject *value, const struct tx_field *field, const char *where, void *at)
{
    switch (field->kind) {
    case TX_FIELD_SIZE: {
        /* None: a number that is not there, as guidance_channels where all are guided. Where 0 will not do, the range check
         * says so. */
        const size_t n = value == Py_None ? 0 : PyLong_Check(value) ? PyLong_AsSize_t(value) : (size_t)-1;
        if (n == (size_t)-1)
            return bad(where, field->name, value, "a whole number, 0 or more");
        *(size_t *)at = n;
        return 0;
    }
    case TX_FIELD_REAL: {
        const double x = value == Py_None ? 0 : PyFloat_AsDouble(value);
        if (x == -1.0 && PyErr_Occurred())
            return bad(where, field->name, value, "a number");
        *(double *)at = x;
        return 0;
    }
    case TX_FIELD_FLAG:
        if (!PyBool_Check(value))
            return bad(where, field->name, value, "True or False");
        *(size_t *)at = value == Py_True;
        return 0;
    case TX_FIELD_CHOICE:
        if (choice(value, field->choices, at) == 0)
            return 0;
        return bad(where, field->name, value, "one of the names in textok/config.py");
    case TX_FIELD_PRESENT:
        *(size_t *)at = value != Py_None;
        return 0;
    default: {
        const int codebook = field->kind == TX_FIELD_CODEBOOK;
        char inside[64];
        if (codebook && value == Py_None)
            return 0;
        snprintf(inside, sizeof inside, "%s%s.", where, field->name);
        return tx_config_from_dict(value, codebook ? tx_codebook_fields : tx_side_fields, inside, at);
    }
    }
}

int tx_config_from_dict(PyObject *dict, const struct tx_field *fields, const char *where, void *config)
{
    if (!PyDict_Check(dict)) {
        PyErr_Format(PyExc_ValueError, "config: %s expected a dict, got %R", where, (PyObject *)Py_TYPE(dict));
        return -1;
    }
    for (const struct tx_field *field = fields; field->name; field++) {
        PyObject *key = PyUnicode_FromString(field->name);
        PyObject *value = key ? PyDict_GetItemWithError(dict, key) : NULL; /* borrowed, like dict */
        Py_XDECREF(key);
        if (!value && PyErr_Occurred())
            return -1;
        if (!value) {
            PyErr_Format(PyExc_ValueError, "config: %s%s is missing", where, field->name);
            return -1;
        }
        if (set_field(value, field, where, (char *)config + field->offset) < 0)
            return -1;
    }
    return 0;
}
