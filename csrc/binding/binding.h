/* What the binding's files share. Only this folder knows Python. */
#ifndef TX_BINDING_H
#define TX_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define PY_ARRAY_UNIQUE_SYMBOL tx_numpy_api
#ifndef TX_IMPORT_ARRAY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "../textok.h"

/* One thread at a time between the two, where Python has no lock of its own; no more than a few lines that call nothing. */
#ifdef Py_GIL_DISABLED
#define TX_LOCK(object) Py_BEGIN_CRITICAL_SECTION(object)
#define TX_UNLOCK() Py_END_CRITICAL_SECTION()
#else
#define TX_LOCK(object) ((void)(object))
#define TX_UNLOCK() ((void)0)
#endif

/* The table that models are packed with: chosen once, when the module is imported. */
extern const struct tx_kernels *tx_active_kernels;

/* A status as an exception; returns NULL. TX_STOPPED: the exception is set already. */
PyObject *tx_raise(const struct tx_error *err);

/* dict[key] = value, whose reference is taken; NULL passes an error on. */
int tx_put(PyObject *dict, const char *key, PyObject *value);

/* The data of a C-contiguous array of this type number and these extents (-1: any), or NULL with a ValueError that names it. */
void *tx_array(PyObject *object, const char *name, int type, int rank, const Py_ssize_t *shape);
/* 0, or -1 with a ValueError where the array is read-only. */
int tx_writeable(PyObject *array, const char *name);
Py_ssize_t tx_array_extent(PyObject *array, int axis);
int tx_is_type(PyObject *object, int type);

/* A dict with every key of the table -> a struct. 0, or -1 with a ValueError. */
int tx_config_from_dict(PyObject *dict, const struct tx_field *fields, const char *where, void *config);

int tx_add_model_type(PyObject *module);    /* model_py.c */
PyObject *tx_weight_table(PyObject *module, PyObject *args);
int tx_add_kernels_type(PyObject *module);  /* kernels_py.c */
PyObject *tx_slot_rows(int row);            /* {slot: the row it comes from} */

#endif
