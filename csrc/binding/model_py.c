/* The type _core.Model: a loaded TexTok, DiT or text encoder. Each method checks its arrays, gives up the GIL, calls the
 * engine, and turns the status into an exception. */
#include "call.h"

#include <stdio.h>

/* ---- checks ---- */

static const char *const kind_names[] = {[TX_MODEL_TEXTOK] = "textok", [TX_MODEL_DIT] = "dit",
                                         [TX_MODEL_TEXT] = "text_encoder"};

static struct tx_model *of_kind(PyObject *self, enum tx_model_kind kind, const char *method)
{
    struct tx_model *model = model_of(self);
    if (tx_model_kind(model) == kind)
        return model;
    PyErr_Format(PyExc_ValueError, "%s: this is a %s model", method, kind_names[tx_model_kind(model)]);
    return NULL;
}

static const char *const side_names[] = {
    [TX_TOKENIZER] = "tokenizer", [TX_DETOKENIZER] = "detokenizer", [TX_BOTH_SIDES] = "both",
};

/* A TexTok that holds the side which `method` runs. */
static struct tx_model *with_side(PyObject *self, enum tx_sides side, const char *method)
{
    struct tx_model *model = of_kind(self, TX_MODEL_TEXTOK, method);
    if (!model || tx_model_sides(model) & side)
        return model;
    PyErr_Format(PyExc_ValueError, "%s: this model holds its %s only", method, side_names[tx_model_sides(model)]);
    return NULL;
}

/* What a condition must look like. */
struct wanted {
    size_t classes;     /* labels run from 0 to classes - 1; 0: embeddings */
    size_t most, width; /* text [B, t <= most, width] */
};

static int check_labels(struct call *call, PyObject *object, size_t B, size_t classes, struct tx_text *text)
{
    text->labels = copied(call, object, "labels", NPY_INT32, (Py_ssize_t)B);
    for (size_t b = 0; text->labels && b < B; b++)
        if (text->labels[b] < 0 || (size_t)text->labels[b] >= classes) {
            PyErr_Format(PyExc_ValueError, "labels[%zu] is %d, expected 0 to %zu", b, (int)text->labels[b], classes - 1);
            return -1;
        }
    return text->labels ? 0 : -1;
}

static int check_text(struct call *call, PyObject *rows, PyObject *lengths, PyObject *labels, size_t B,
                      const struct wanted *wanted, struct tx_text *text)
{
    *text = (struct tx_text){0};
    if (wanted->classes)
        return check_labels(call, labels, B, wanted->classes, text);
    if (!wanted->most)
        return 0;
    text->rows = tx_array(rows, "text", NPY_FLOAT32, 3, (Py_ssize_t[]){(Py_ssize_t)B, -1, (Py_ssize_t)wanted->width});
    text->lengths = text->rows ? copied(call, lengths, "text_lengths", NPY_INT32, (Py_ssize_t)B) : NULL;
    if (!text->lengths)
        return -1;
    text->t = (size_t)tx_array_extent(rows, 1);
    if (text->t < 1 || text->t > wanted->most) {
        PyErr_Format(PyExc_ValueError, "text: expected 1 to %zu tokens, got %zu", wanted->most, text->t);
        return -1;
    }
    for (size_t b = 0; b < B; b++)
        if (text->lengths[b] < 1 || (size_t)text->lengths[b] > text->t) {
            PyErr_Format(PyExc_ValueError, "text_lengths[%zu] is %d, expected 1 to %zu", b, (int)text->lengths[b], text->t);
            return -1;
        }
    return 0;
}

static struct wanted textok_text(const struct tx_textok_config *c, size_t this_side)
{
    if (c->text_condition != TX_TEXT_BOTH && c->text_condition != this_side)
        return (struct wanted){0};
    if (c->text_source == TX_TEXT_CLASS)
        return (struct wanted){.classes = c->num_classes};
    return (struct wanted){.most = c->num_text_tokens, .width = c->text_dim};
}

static struct wanted dit_text(const struct tx_dit_config *c)
{
    if (c->condition == TX_CONDITION_CLASS)
        return (struct wanted){.classes = c->num_classes + 1}; /* the null class too */
    return (struct wanted){.most = c->num_text_tokens, .width = c->text_dim};
}

/* ---- TexTok ---- */

static PyObject *encode(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"x", "text", "text_lengths", "labels", "out", "threads", "trace", NULL};
    PyObject *x, *rows, *lengths, *labels, *out, *trace = NULL;
    int threads = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOO|iO:encode", names, &x, &rows, &lengths, &labels, &out, &threads,
                                     &trace))
        return NULL;
    struct tx_model *model = with_side(self, TX_TOKENIZER, "encode");
    if (!model)
        return NULL;
    const struct tx_textok_config *c = &tx_model_config(model)->textok;
    const Py_ssize_t S = (Py_ssize_t)c->image_size;
    const int bytes = tx_is_type(x, NPY_UINT8);
    const void *images = tx_array(x, "x", bytes ? NPY_UINT8 : NPY_FLOAT32, 4, (Py_ssize_t[]){-1, S, S, 3});
    if (!images)
        return NULL;
    const Py_ssize_t B = tx_array_extent(x, 0);
    float *z =
        tx_array(out, "out", NPY_FLOAT32, 3, (Py_ssize_t[]){B, (Py_ssize_t)c->num_latent_tokens, (Py_ssize_t)c->latent_dim});
    const struct wanted wanted = textok_text(c, TX_TEXT_TOKENIZER);
    struct tx_text text;
    CALL call = {0};
    if (!z || tx_writeable(out, "out") < 0 || check_text(&call, rows, lengths, labels, (size_t)B, &wanted, &text) < 0 ||
        begin(&call, self, threads, trace) < 0)
        return NULL;
    call.thread = PyEval_SaveThread();
    const enum tx_status status = B ? tx_textok_encode(model, &call.c, images, bytes, &text, (size_t)B, z) : TX_OK;
    PyEval_RestoreThread(call.thread);
    return end(&call, status);
}

static PyObject *decode(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"z", "text", "text_lengths", "labels", "out", "threads", "trace", NULL};
    PyObject *latents, *rows, *lengths, *labels, *out, *trace = NULL;
    int threads = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOO|iO:decode", names, &latents, &rows, &lengths, &labels, &out, &threads,
                                     &trace))
        return NULL;
    struct tx_model *model = with_side(self, TX_DETOKENIZER, "decode");
    if (!model)
        return NULL;
    const struct tx_textok_config *c = &tx_model_config(model)->textok;
    const Py_ssize_t S = (Py_ssize_t)c->image_size;
    const float *z =
        tx_array(latents, "z", NPY_FLOAT32, 3, (Py_ssize_t[]){-1, (Py_ssize_t)c->num_latent_tokens, (Py_ssize_t)c->latent_dim});
    if (!z)
        return NULL;
    const Py_ssize_t B = tx_array_extent(latents, 0);
    const int bytes = tx_is_type(out, NPY_UINT8);
    void *images = tx_array(out, "out", bytes ? NPY_UINT8 : NPY_FLOAT32, 4, (Py_ssize_t[]){B, S, S, 3});
    const struct wanted wanted = textok_text(c, TX_TEXT_DETOKENIZER);
    struct tx_text text;
    CALL call = {0};
    if (!images || tx_writeable(out, "out") < 0 || check_text(&call, rows, lengths, labels, (size_t)B, &wanted, &text) < 0 ||
        begin(&call, self, threads, trace) < 0)
        return NULL;
    call.thread = PyEval_SaveThread();
    const enum tx_status status = B ? tx_textok_decode(model, &call.c, z, &text, (size_t)B, images, bytes) : TX_OK;
    PyEval_RestoreThread(call.thread);
    return end(&call, status);
}

/* ---- DiT ---- */

/* The shape of B samples with C channels, [B,T,C] or [B,C,S,S], into shape (room for 4); returns the rank. */
static int sample_shape(const struct tx_dit_config *c, Py_ssize_t B, size_t C, Py_ssize_t *shape)
{
    const int image = c->input_size != 0;
    shape[0] = B;
    shape[1] = (Py_ssize_t)(image ? C : c->num_tokens);
    shape[2] = (Py_ssize_t)(image ? c->input_size : C);
    shape[3] = (Py_ssize_t)c->input_size;
    return image ? 4 : 3;
}

static PyObject *denoise(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"x", "t", "labels", "text", "text_lengths", "null", "out", "threads", "trace", NULL};
    PyObject *tokens, *times, *labels, *rows, *lengths, *out, *trace = NULL;
    int null, threads = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOpO|iO:denoise", names, &tokens, &times, &labels, &rows, &lengths,
                                     &null, &out, &threads, &trace))
        return NULL;
    struct tx_model *model = of_kind(self, TX_MODEL_DIT, "denoise");
    if (!model)
        return NULL;
    const struct tx_dit_config *c = &tx_model_config(model)->dit;
    Py_ssize_t shape[4];
    int rank = sample_shape(c, -1, c->in_channels, shape);
    const float *x = tx_array(tokens, "x", NPY_FLOAT32, rank, shape);
    if (!x)
        return NULL;
    const Py_ssize_t B = tx_array_extent(tokens, 0);
    const float *t = tx_array(times, "t", NPY_FLOAT32, 1, &B);
    rank = sample_shape(c, B, (c->learn_sigma ? 2 : 1) * c->in_channels, shape);
    float *y = t ? tx_array(out, "out", NPY_FLOAT32, rank, shape) : NULL;
    const struct wanted wanted = dit_text(c);
    struct tx_text text;
    CALL call = {0};
    if (!y || tx_writeable(out, "out") < 0 ||
        (!null && check_text(&call, rows, lengths, labels, (size_t)B, &wanted, &text) < 0) ||
        begin(&call, self, threads, trace) < 0)
        return NULL;
    call.thread = PyEval_SaveThread();
    const enum tx_status status = B ? tx_dit_denoise_call(model, &call.c, x, t, null ? NULL : &text, (size_t)B, y) : TX_OK;
    PyEval_RestoreThread(call.thread);
    return end(&call, status);
}

static PyObject *sample(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"x", "t", "update", "guidance", "step_noise", "labels", "text", "text_lengths", "callback",
                            "threads", NULL};
    PyObject *tokens, *times, *update, *guidance, *noise, *labels, *rows, *lengths, *callback = Py_None;
    int threads = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOOOO|Oi:sample", names, &tokens, &times, &update, &guidance, &noise,
                                     &labels, &rows, &lengths, &callback, &threads))
        return NULL;
    struct tx_model *model = of_kind(self, TX_MODEL_DIT, "sample");
    if (!model)
        return NULL;
    const struct tx_dit_config *c = &tx_model_config(model)->dit;
    Py_ssize_t shape[5]; /* steps, B, and a sample's */
    const int rank = sample_shape(c, -1, c->in_channels, shape + 1);
    struct tx_sample s = {.x = tx_array(tokens, "x", NPY_FLOAT32, rank, shape + 1)};
    if (!s.x || tx_writeable(tokens, "x") < 0 || !(s.t = tx_array(times, "t", NPY_FLOAT32, 1, (Py_ssize_t[]){-1})))
        return NULL;
    const Py_ssize_t B = tx_array_extent(tokens, 0), steps = tx_array_extent(times, 0);
    s.B = (size_t)B;
    s.steps = (size_t)steps;
    s.update = tx_array(update, "update", NPY_FLOAT64, 2, (Py_ssize_t[]){steps, TX_UPDATE});
    CALL call = {0};
    s.guidance = s.update ? copied(&call, guidance, "guidance", NPY_FLOAT32, steps) : NULL;
    if (!s.guidance)
        return NULL;
    shape[0] = steps;
    shape[1] = B;
    if (noise != Py_None && !(s.noise = tx_array(noise, "step_noise", NPY_FLOAT32, rank + 1, shape)))
        return NULL;
    const struct wanted wanted = dit_text(c);
    if (check_text(&call, rows, lengths, labels, (size_t)B, &wanted, &s.text) < 0 || begin(&call, self, threads, NULL) < 0)
        return NULL;
    call.callback = callback == Py_None ? NULL : callback;
    call.x = tokens;
    s.after = after_step;
    s.after_arg = &call;
    call.thread = PyEval_SaveThread();
    const enum tx_status status = B ? tx_dit_sample(model, &call.c, &s) : TX_OK;
    PyEval_RestoreThread(call.thread);
    return end(&call, status);
}

/* ---- text encoders ---- */

/* 0 where every number is from `least` to the number of the same place in `most`, or to `limit` where that is NULL. */
static int check_range(const int32_t *values, const char *name, size_t count, int32_t least, const int32_t *most, size_t limit)
{
    for (size_t i = 0; i < count; i++)
        if (values[i] < least || (size_t)values[i] > (most ? (size_t)most[i] : limit)) {
            PyErr_Format(PyExc_ValueError, "%s[%zu] is %d, expected %d to %zu", name, i, (int)values[i], (int)least,
                         most ? (size_t)most[i] : limit);
            return -1;
        }
    return 0;
}

static PyObject *encode_text(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ids", "tokens", "keys", "pooled_at", "states", "pooled", "threads", "trace", NULL};
    PyObject *ids, *tokens, *keys, *at, *states, *pooled, *trace = NULL;
    int threads = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOO|iO:encode_text", names, &ids, &tokens, &keys, &at, &states, &pooled,
                                     &threads, &trace))
        return NULL;
    struct tx_model *model = of_kind(self, TX_MODEL_TEXT, "encode_text");
    if (!model)
        return NULL;
    const struct tx_text_config *c = &tx_model_config(model)->text;
    CALL call = {0};
    struct tx_captions captions = {.tokens = copied(&call, tokens, "tokens", NPY_INT32, -1)};
    if (!captions.tokens)
        return NULL;
    const Py_ssize_t B = tx_array_extent(tokens, 0);
    captions.B = (size_t)B;
    if (!(captions.keys = copied(&call, keys, "keys", NPY_INT32, B)) ||
        check_range(captions.tokens, "tokens", captions.B, 1, NULL, c->max_positions ? c->max_positions : INT32_MAX) < 0 ||
        check_range(captions.keys, "keys", captions.B, 1, captions.tokens, 0) < 0)
        return NULL;
    size_t rows = 0;
    for (size_t b = 0; b < captions.B; b++) {
        rows += (size_t)captions.tokens[b];
        captions.t = (size_t)captions.tokens[b] > captions.t ? (size_t)captions.tokens[b] : captions.t;
    }
    captions.ids = copied(&call, ids, "ids", NPY_INT32, (Py_ssize_t)rows);
    if (!captions.ids || check_range(captions.ids, "ids", rows, 0, NULL, c->vocab_size - 1) < 0)
        return NULL;
    if (states != Py_None) {
        captions.states = tx_array(states, "states", NPY_FLOAT32, 3, (Py_ssize_t[]){B, -1, (Py_ssize_t)c->hidden_size});
        if (!captions.states || tx_writeable(states, "states") < 0)
            return NULL;
        if ((size_t)tx_array_extent(states, 1) < captions.t)
            return PyErr_Format(PyExc_ValueError, "states: expected room for %zu tokens, got %zd", captions.t,
                                tx_array_extent(states, 1));
        captions.t = (size_t)tx_array_extent(states, 1);
    }
    if (pooled != Py_None) {
        const Py_ssize_t width = (Py_ssize_t)(c->projection_dim ? c->projection_dim : c->hidden_size);
        captions.pooled = tx_array(pooled, "pooled", NPY_FLOAT32, 2, (Py_ssize_t[]){B, width});
        captions.pooled_at = captions.pooled ? copied(&call, at, "pooled_at", NPY_INT32, B) : NULL;
        if (!captions.pooled_at || tx_writeable(pooled, "pooled") < 0)
            return NULL;
        for (size_t b = 0; b < captions.B; b++)
            if (captions.pooled_at[b] < 0 || captions.pooled_at[b] >= captions.tokens[b])
                return PyErr_Format(PyExc_ValueError, "pooled_at[%zu] is %d, expected 0 to %d", b, (int)captions.pooled_at[b],
                                    (int)captions.tokens[b] - 1);
    }
    if (begin(&call, self, threads, trace) < 0)
        return NULL;
    call.thread = PyEval_SaveThread();
    const enum tx_status status = B ? tx_text_encode(model, &call.c, &captions) : TX_OK;
    PyEval_RestoreThread(call.thread);
    return end(&call, status);
}

/* ---- the type ---- */

static int config_from(PyObject *type, PyObject *dict, enum tx_model_kind *kind, union tx_model_config *config)
{
    static const struct tx_field *const fields[] = {
        [TX_MODEL_TEXTOK] = tx_textok_fields, [TX_MODEL_DIT] = tx_dit_fields, [TX_MODEL_TEXT] = tx_text_fields};
    for (size_t i = 0; i < sizeof kind_names / sizeof *kind_names; i++)
        if (PyUnicode_CompareWithASCIIString(type, kind_names[i]) == 0) {
            *kind = (enum tx_model_kind)i;
            memset(config, 0, sizeof *config);
            return tx_config_from_dict(dict, fields[i], "", config);
        }
    PyErr_Format(PyExc_ValueError, "model_type: expected \"textok\", \"dit\" or \"text_encoder\", got %R", type);
    return -1;
}

static PyObject *shape_tuple(int rank, const size_t *shape)
{
    PyObject *tuple = PyTuple_New(rank);
    for (int i = 0; tuple && i < rank; i++) {
        PyObject *extent = PyLong_FromSize_t(shape[i]);
        if (!extent || PyTuple_SetItem(tuple, i, extent) < 0)
            Py_CLEAR(tuple);
    }
    return tuple;
}

PyObject *tx_weight_table(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *type, *dict;
    enum tx_model_kind kind;
    union tx_model_config config;
    struct tx_error err;
    struct tx_model *model;
    if (!PyArg_ParseTuple(args, "UO:weight_table", &type, &dict) || config_from(type, dict, &kind, &config) < 0)
        return NULL;
    if (tx_model_open(&model, tx_active_kernels, kind, TX_BOTH_SIDES, TX_F32, &config, &err) != TX_OK)
        return tx_raise(&err);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < tx_model_tensor_count(model); i++) {
        const char *name;
        size_t shape[3];
        const int rank = tx_model_tensor(model, i, &name, shape);
        PyObject *line = Py_BuildValue("(sN)", name, shape_tuple(rank, shape));
        if (!line || PyList_Append(list, line) < 0)
            Py_CLEAR(list);
        Py_XDECREF(line);
    }
    tx_model_close(model);
    return list;
}

/* ---- dtypes and sides ---- */

static const struct {
    const char *name;
    int npy;            /* bfloat16 travels as uint16 */
} dtypes[] = {
    [TX_F32] = {"float32", NPY_FLOAT32}, [TX_BF16] = {"bfloat16", NPY_UINT16}, [TX_INT8] = {"int8", NPY_INT8},
    [TX_INT4] = {"int4", NPY_UINT8},
};

static int dtype_from(const char *name, enum tx_dtype *dtype)
{
    for (int i = 0; i < (int)(sizeof dtypes / sizeof *dtypes); i++)
        if (strcmp(name, dtypes[i].name) == 0) {
            *dtype = (enum tx_dtype)i;
            return 0;
        }
    PyErr_Format(PyExc_ValueError, "dtype: expected \"float32\", \"bfloat16\", \"int8\" or \"int4\", got \"%s\"", name);
    return -1;
}

static int sides_from(const char *name, enum tx_sides *sides)
{
    for (int i = TX_TOKENIZER; i <= TX_BOTH_SIDES; i++)
        if (strcmp(name, side_names[i]) == 0) {
            *sides = (enum tx_sides)i;
            return 0;
        }
    PyErr_Format(PyExc_ValueError, "side: expected \"both\", \"tokenizer\" or \"detokenizer\", got \"%s\"", name);
    return -1;
}

/* What lies beside a tensor of integers. */
static const char ROW_SCALE[] = "scale", GROUP_SCALE[] = "group_scale";

static void scale_name(char *text, size_t size, const char *name, const char *what)
{
    snprintf(text, size, "%s.%s", name, what);
}

struct loading {
    struct tx_model *model;
    PyObject *weights;          /* a mapping: it may make each tensor when it is asked for it */
    PyObject *array, *scale, *group_scale; /* the tensor being packed, held so that its memory stays */
    PyThreadState *thread;      /* packing does without the GIL */
};

static PyObject *item(PyObject *mapping, const char *name)
{
    PyObject *key = PyUnicode_FromString(name), *value = key ? PyObject_GetItem(mapping, key) : NULL;
    Py_XDECREF(key);
    if (!value && PyErr_ExceptionMatches(PyExc_KeyError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "weights: %s is missing", name);
    }
    return value;
}

static void drop_tensor(struct loading *loading)
{
    Py_CLEAR(loading->array);
    Py_CLEAR(loading->scale);
    Py_CLEAR(loading->group_scale);
}

static int get_values(struct loading *loading, size_t index, struct tx_values *values)
{
    const char *name;
    size_t shape[3];
    const int rank = tx_model_tensor(loading->model, index, &name, shape);
    const Py_ssize_t dims[3] = {(Py_ssize_t)shape[0], (Py_ssize_t)shape[1], (Py_ssize_t)shape[2]};
    drop_tensor(loading);
    if (!(loading->array = item(loading->weights, name)))
        return -1;
    *values = (struct tx_values){.dtype = TX_F32};
    for (int i = TX_BF16; i < TX_DTYPE_COUNT; i++)
        if (tx_is_type(loading->array, dtypes[i].npy))
            values->dtype = (enum tx_dtype)i;
    const int int4 = values->dtype == TX_INT4;
    if (int4 && rank != 2) {
        PyErr_Format(PyExc_ValueError, "weights: %s: int4, which is for matrices", name);
        return -1;
    }
    const Py_ssize_t stored[3] = {dims[0], int4 ? (Py_ssize_t)tx_int4_row(shape[1]) : dims[1], dims[2]};
    values->data = tx_array(loading->array, name, dtypes[values->dtype].npy, rank, stored);
    if (!values->data)
        return -1;
    char text[128];
    if (values->dtype == TX_INT8 || int4) {
        scale_name(text, sizeof text, name, ROW_SCALE);
        loading->scale = item(loading->weights, text);
        values->scale = loading->scale ? tx_array(loading->scale, text, NPY_FLOAT32, 1, dims) : NULL;
        if (!values->scale)
            return -1;
    }
    if (int4) {
        const Py_ssize_t groups[2] = {dims[0], (Py_ssize_t)tx_int4_groups(shape[1])};
        scale_name(text, sizeof text, name, GROUP_SCALE);
        loading->group_scale = item(loading->weights, text);
        values->group_scale = loading->group_scale ? tx_array(loading->group_scale, text, NPY_UINT8, 2, groups) : NULL;
        if (!values->group_scale)
            return -1;
    }
    return 0;
}

static int get_tensor(void *arg, size_t index, struct tx_values *values)
{
    struct loading *loading = arg;
    PyEval_RestoreThread(loading->thread);
    const int failed = get_values(loading, index, values) < 0 || PyErr_CheckSignals() < 0;
    loading->thread = PyEval_SaveThread();
    return failed;
}

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"model_type", "config", "weights", "dtype", "side", "threads", NULL};
    PyObject *model_type, *dict, *weights;
    const char *dtype_name = "float32", *side_name = "both";
    int threads = 0;
    enum tx_model_kind kind;
    enum tx_sides sides;
    enum tx_dtype dtype;
    union tx_model_config config;
    struct tx_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "UOO|ssi:Model", names, &model_type, &dict, &weights, &dtype_name,
                                     &side_name, &threads) ||
        dtype_from(dtype_name, &dtype) < 0 || sides_from(side_name, &sides) < 0 || threads_given(threads) < 0 ||
        config_from(model_type, dict, &kind, &config) < 0)
        return NULL;
    struct loading loading = {.weights = weights};
    if (tx_model_open(&loading.model, tx_active_kernels, kind, sides, dtype, &config, &err) != TX_OK)
        return tx_raise(&err);
    loading.thread = PyEval_SaveThread();
    const enum tx_status status = tx_model_load(loading.model, get_tensor, &loading, threads, &err);
    PyEval_RestoreThread(loading.thread);
    drop_tensor(&loading);
    if (status != TX_OK) {
        tx_model_close(loading.model);
        return tx_raise(&err);
    }
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *self = alloc(type, 0);
    if (self)
        ((struct model_object *)self)->model = loading.model;
    else
        tx_model_close(loading.model);
    return self;
}

/* A recorder may hold its model, as a closure does. */
static int model_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((struct model_object *)self)->recorder);
    return 0;
}

static int model_clear(PyObject *self)
{
    Py_CLEAR(((struct model_object *)self)->recorder);
    return 0;
}

static void model_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    tx_model_close(model_of(self));
    model_clear(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* dict[name] = a new array, whose data is returned; NULL on error. */
static void *put_array(PyObject *dict, const char *name, int rank, const size_t *shape, int npy)
{
    npy_intp dims[3] = {0};
    for (int i = 0; i < rank; i++)
        dims[i] = (npy_intp)shape[i];
    PyObject *array = PyArray_SimpleNew(rank, dims, npy);
    void *data = array && PyDict_SetItemString(dict, name, array) == 0 ? PyArray_DATA((PyArrayObject *)array) : NULL;
    Py_XDECREF(array);
    return data;
}

/* Puts tensor i, and its scales where there are such, into the dict. */
static int put_tensor(PyObject *dict, const struct tx_model *model, size_t i)
{
    const char *name;
    char text[128];
    size_t shape[3];
    const int rank = tx_model_tensor(model, i, &name, shape);
    const enum tx_dtype dtype = tx_model_tensor_dtype(model, i);
    const int int4 = dtype == TX_INT4, scaled = dtype == TX_INT8 || int4;
    const size_t stored[3] = {shape[0], int4 ? tx_int4_row(shape[1]) : shape[1], shape[2]};
    float *scale = NULL;
    uint8_t *group_scale = NULL;
    void *data = put_array(dict, name, rank, stored, dtypes[dtype].npy);
    scale_name(text, sizeof text, name, ROW_SCALE);
    if (data && scaled && !(scale = put_array(dict, text, 1, shape, NPY_FLOAT32)))
        return -1;
    scale_name(text, sizeof text, name, GROUP_SCALE);
    if (data && int4 &&
        !(group_scale = put_array(dict, text, 2, (size_t[]){shape[0], tx_int4_groups(shape[1])}, NPY_UINT8)))
        return -1;
    if (!data)
        return -1;
    tx_model_export(model, i, data, scale, group_scale);
    return 0;
}

static PyObject *record_inputs(PyObject *self, PyObject *recorder)
{
    struct model_object *object = (struct model_object *)self;
    if (recorder != Py_None && !PyCallable_Check(recorder))
        return PyErr_Format(PyExc_TypeError, "record_inputs: expected a function or None, got %R",
                            (PyObject *)Py_TYPE(recorder));
    PyObject *before;
    TX_LOCK(self);
    before = object->recorder;
    object->recorder = recorder == Py_None ? NULL : Py_NewRef(recorder);
    TX_UNLOCK();
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

static PyObject *weights(PyObject *self, PyObject *args)
{
    const struct tx_model *model = model_of(self);
    Py_ssize_t only = -1;
    const size_t count = tx_model_tensor_count(model);
    if (!PyArg_ParseTuple(args, "|n:weights", &only))
        return NULL;
    if (only >= (Py_ssize_t)count)
        return PyErr_Format(PyExc_ValueError, "weights: expected a number below %zu, got %zd", count, only);
    PyObject *dict = PyDict_New();
    for (size_t i = only < 0 ? 0 : (size_t)only; dict && i < (only < 0 ? count : (size_t)only + 1); i++)
        if (put_tensor(dict, model, i) < 0)
            Py_CLEAR(dict);
    return dict;
}

static PyObject *memory_plan(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"batch", "text_tokens", "steps", "threads", NULL};
    Py_ssize_t batch, text_tokens, steps = 1;
    int threads = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "nn|ni:memory_plan", names, &batch, &text_tokens, &steps, &threads))
        return NULL;
    if (batch < 1 || text_tokens < (tx_model_kind(model_of(self)) == TX_MODEL_TEXT) || steps < 1 || threads < 0)
        return PyErr_Format(PyExc_ValueError,
                            "memory_plan: expected batch and steps of 1 or more, text_tokens and threads of 0 or more");
    /* Plans multiply these before the arena sees that it is too much. Arrays that a call takes are in memory, and smaller. */
    const Py_ssize_t most = 1 << 30;
    if (batch > most || text_tokens > most || steps > most)
        return PyErr_Format(PyExc_ValueError, "memory_plan: expected batch, text_tokens and steps of at most %zd", most);
    const struct tx_model *model = model_of(self);
    return Py_BuildValue("{snsn}", "weights", (Py_ssize_t)tx_model_weight_bytes(model), "workspace",
                         (Py_ssize_t)tx_model_workspace(model, (size_t)batch, (size_t)text_tokens, (size_t)steps, threads));
}

static PyObject *get_model_type(PyObject *self, void *closure)
{
    (void)closure;
    return PyUnicode_FromString(kind_names[tx_model_kind(model_of(self))]);
}

static PyObject *get_dtype(PyObject *self, void *closure)
{
    (void)closure;
    return PyUnicode_FromString(dtypes[tx_model_dtype(model_of(self))].name);
}

static PyObject *get_num_parameters(PyObject *self, void *closure)
{
    (void)closure;
    size_t count = 0;
    for (size_t i = 0; i < tx_model_tensor_count(model_of(self)); i++) {
        const char *name;
        size_t shape[3];
        const int rank = tx_model_tensor(model_of(self), i, &name, shape);
        size_t elements = 1;
        for (int axis = 0; axis < rank; axis++)
            elements *= shape[axis];
        count += elements;
    }
    return PyLong_FromSize_t(count);
}

static PyObject *get_weight_bytes(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromSize_t(tx_model_weight_bytes(model_of(self)));
}

#define METHOD(name, doc) {#name, (PyCFunction)(void (*)(void))name, METH_VARARGS | METH_KEYWORDS, doc}

static PyMethodDef model_methods[] = {
    METHOD(encode, "encode(x, text, text_lengths, labels, out, threads=0, trace=None)"),
    METHOD(decode, "decode(z, text, text_lengths, labels, out, threads=0, trace=None)"),
    METHOD(denoise, "denoise(x, t, labels, text, text_lengths, null, out, threads=0, trace=None)"),
    METHOD(sample, "sample(x, t, update, guidance, step_noise, labels, text, text_lengths, callback=None, threads=0)"),
    METHOD(encode_text, "encode_text(ids, tokens, keys, pooled_at, states, pooled, threads=0, trace=None)"),
    METHOD(memory_plan, "memory_plan(batch, text_tokens, steps=1, threads=0) -> {\"weights\": bytes, \"workspace\": bytes}"),
    {"record_inputs", record_inputs, METH_O, "record_inputs(f or None): from now on f(weight's name, rows) for each product."},
    {"weights", weights, METH_VARARGS, "weights(index=-1): all tensors, or the one of that number, as they came."},
    {0},
};

static PyGetSetDef model_attributes[] = {
    {"model_type", get_model_type, NULL, "\"textok\", \"dit\" or \"text_encoder\"", NULL},
    {"dtype", get_dtype, NULL, "what the large products are computed in", NULL},
    {"num_parameters", get_num_parameters, NULL, "how many numbers the weights hold", NULL},
    {"weight_bytes", get_weight_bytes, NULL, "bytes that the packed weights take", NULL},
    {0},
};

static PyType_Slot model_slots[] = {
    {Py_tp_doc, "Model(model_type, config, weights, dtype=\"float32\", side=\"both\", threads=0): packed weights of one "
                "TexTok, a side of it, one DiT or one text encoder."},
    {Py_tp_new, (void *)model_new},
    {Py_tp_dealloc, (void *)model_dealloc},
    {Py_tp_traverse, (void *)model_traverse},
    {Py_tp_clear, (void *)model_clear},
    {Py_tp_methods, model_methods},
    {Py_tp_getset, model_attributes},
    {0, NULL},
};

static PyType_Spec model_spec = {
    .name = "textok._core.Model",
    .basicsize = sizeof(struct model_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = model_slots,
};

int tx_add_model_type(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &model_spec, NULL);
    const int result = type ? PyModule_AddObjectRef(module, "Model", type) : -1;
    Py_XDECREF(type);
    return result;
}
