/* What of a tensor compiled code can read where it lies. With torch's headers a build would be for one of its versions: so a
 * tensor is asked by DLPack, in one call, or by the methods that all versions have. */

#include "lending.h"

/* Given once, by ``setup``. */
static struct {
    PyTypeObject *tensor, *parameter;
    PyObject *kinds;   /* element type -> its number */
    PyObject *keys_of; /* what torch dispatches on, of a tensor */
    PyObject *threads; /* how many it uses */
    PyObject *dense;   /* those of a tensor whose elements lie in the host's memory as they are */
} torch;

static struct {
    PyObject *dtype, *raw_repr, *is_contiguous, *is_neg, *is_inference, *numel, *data_ptr, *version, *untyped_storage;
} names;

/* Takes the reference. */
static int64_t number_of(PyObject *number) {
    int64_t value = number ? PyLong_AsLongLong(number) : -1;
    Py_XDECREF(number);
    return value;
}

static int threads(void) {
    int64_t number = number_of(PyObject_CallNoArgs(torch.threads));
    PyErr_Clear();
    return (int)number;
}

static int kind_of(PyObject *tensor) {
    PyObject *dtype = PyObject_GetAttr(tensor, names.dtype);
    PyObject *kind = dtype ? PyDict_GetItemWithError(torch.kinds, dtype) : NULL;
    Py_XDECREF(dtype);
    return kind ? (int)PyLong_AsLong(kind) : -1;
}

/* Neither a wrapper, nor sparse, nested or quantised, nor to be negated or conjugated when it is read. */
static int is_dense(PyObject *tensor) {
    PyObject *keys = PyObject_CallOneArg(torch.keys_of, tensor);
    PyObject *raw = keys ? PyObject_CallMethodNoArgs(keys, names.raw_repr) : NULL;
    int found = raw ? PySet_Contains(torch.dense, raw) : 0;
    Py_XDECREF(keys);
    Py_XDECREF(raw);
    return found == 1;
}

/* What a method says that takes nothing and answers with a boolean. */
static int says_yes(PyObject *tensor, PyObject *method) {
    PyObject *answer = PyObject_CallMethodNoArgs(tensor, method);
    Py_XDECREF(answer);
    return answer == Py_True;
}

static int is_plain(PyObject *tensor) { return Py_TYPE(tensor) == torch.tensor || Py_TYPE(tensor) == torch.parameter; }

static int ask(PyObject *tensor, Elements *all) {
    all->type = kind_of(tensor);
    if (all->type < 0 || !is_dense(tensor) || !says_yes(tensor, names.is_contiguous))
        return 0;
    all->number = number_of(PyObject_CallMethodNoArgs(tensor, names.numel));
    all->data = (const char *)(intptr_t)number_of(PyObject_CallMethodNoArgs(tensor, names.data_ptr));
    return !PyErr_Occurred();
}

/* The elements of a plain tensor of floats without gaps in the host's memory; 0, and no exception, for anything else. */
static int elements_of(PyObject *tensor, Elements *all) {
    if (!is_plain(tensor))
        return 0;
    int known = lender ? borrow(tensor, all) && !says_yes(tensor, names.is_neg) : ask(tensor, all);
    int has_memory = known && (all->data || !all->number); /* it may have been given back */
    PyErr_Clear();
    return has_memory && (uintptr_t)all->data % (uintptr_t)size_of(all->type) == 0;
}
