/* ``Rows``: rows of sketches in the host's memory, as Python sees them. */

#include "arguments.h"

/* A large tensor as it was when it was read. Its memory is held weakly. */
typedef struct {
    Elements all;
    int64_t times, version, serial;
    PyObject *storage; /* NULL if none was read */
} Seen;

typedef struct {
    PyObject_HEAD
    PyObject *buffers; /* a tuple, which keeps them */
    Row first;
    int64_t number;
    Seen last;
} Rows;

static PyTypeObject RowsType;

static Row row_at(const Rows *rows, int64_t place) {
    return (Row){rows->first.counts + place * BINS, rows->first.moments + place * SLOTS,
                 rows->first.parameters + place * PARAMETERS};
}

static int is_there(const Rows *rows, int64_t place) {
    if (0 <= place && place < rows->number)
        return 1;
    PyErr_Format(PyExc_IndexError, "there is no row %lld in %lld rows", (long long)place, (long long)rows->number);
    return 0;
}

static void *address_of(PyObject *buffers, Py_ssize_t place) {
    return (void *)(intptr_t)number_of(PyObject_CallMethodNoArgs(PyTuple_GET_ITEM(buffers, place), names.data_ptr));
}

static PyObject *rows_use(Rows *self, PyObject *buffers) {
    if (!PyTuple_Check(buffers) || PyTuple_GET_SIZE(buffers) != 3)
        return PyErr_Format(PyExc_TypeError, "counts, moments and parameters are wanted");
    Row first = {address_of(buffers, 0), address_of(buffers, 1), address_of(buffers, 2)};
    Py_ssize_t number = PyObject_Size(PyTuple_GET_ITEM(buffers, 0));
    if (number < 0 || PyErr_Occurred())
        return NULL;
    Py_INCREF(buffers);
    Py_XSETREF(self->buffers, buffers);
    Py_CLEAR(self->last.storage);
    self->first = first;
    self->number = number;
    Py_RETURN_NONE;
}

static PyObject *rows_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    (void)keywords;
    Rows *self = (Rows *)type->tp_alloc(type, 0);
    PyObject *done = self ? rows_use(self, arguments) : NULL;
    if (!done)
        Py_CLEAR(self);
    Py_XDECREF(done);
    return (PyObject *)self;
}

static void rows_dealloc(Rows *self) {
    Py_XDECREF(self->buffers);
    Py_XDECREF(self->last.storage);
    Py_TYPE(self)->tp_free(self);
}

/* What tells a tensor from others, and from itself at another time; without a storage if it has no version, in inference. */
static Seen seen(PyObject *tensor, const Elements *all, int64_t times) {
    Seen it = {.all = *all, .times = times};
    if (says_yes(tensor, names.is_inference))
        return it;
    it.version = number_of(PyObject_GetAttr(tensor, names.version));
    PyObject *storage = PyObject_CallMethodNoArgs(tensor, names.untyped_storage);
    it.storage = storage ? PyWeakref_NewRef(storage, NULL) : NULL; /* the same one for as long as there is that memory */
    Py_XDECREF(storage);
    PyErr_Clear();
    return it;
}

static int are_same(const Seen *one, const Seen *other) {
    return one->storage && one->storage == other->storage && one->version == other->version &&
           one->all.data == other->all.data && one->all.number == other->all.number &&
           one->all.type == other->all.type && one->times == other->times;
}

/* Adds the elements of a tensor to a row, so many times. Those of the last large one are not looked at again. */
static int add(Rows *self, int64_t row, PyObject *tensor, Elements all, int64_t times) {
    if (all.number <= SMALL)
        return fold(row_at(self, row), all, times, 1) != NOT_DONE;
    Seen now = seen(tensor, &all, times);
    if (are_same(&self->last, &now) && again(row_at(self, row), self->last.serial)) {
        Py_DECREF(now.storage);
        return 1;
    }
    now.serial = fold(row_at(self, row), all, times, threads());
    Py_CLEAR(self->last.storage);
    if (now.serial > 0)
        self->last = now;
    else
        Py_XDECREF(now.storage);
    return now.serial != NOT_DONE;
}

/* read(row, tensor) -> bool */
static PyObject *rows_read(Rows *self, PyObject *const *arguments, Py_ssize_t count) {
    int64_t row;
    Elements all;
    if (!are_so_many(count, 2) || !numbers_in(arguments, 0, 1, &row) || !is_there(self, row))
        return NULL;
    return PyBool_FromLong(elements_of(arguments[1], &all) && add(self, row, arguments[1], all, 1));
}

/* read_times(row, tensor, times) -> bool */
static PyObject *rows_read_times(Rows *self, PyObject *const *arguments, Py_ssize_t count) {
    int64_t row, times;
    Elements all;
    if (!are_so_many(count, 3) || !numbers_in(arguments, 0, 1, &row) || !numbers_in(arguments, 2, 1, &times) ||
        !is_there(self, row))
        return NULL;
    if (!elements_of(arguments[1], &all))
        Py_RETURN_FALSE;
    all.number = times ? all.number : 0;
    return PyBool_FromLong(add(self, row, arguments[1], all, times));
}

/* The rows that a list names, all of which must be there; -1 stands for none of them. To be freed. */
static int64_t *rows_in(const Rows *rows, PyObject *list) {
    Py_ssize_t number = PyList_GET_SIZE(list);
    int64_t *found = PyMem_Malloc((size_t)number * sizeof *found + 1);
    if (!found)
        return (int64_t *)PyErr_NoMemory();
    for (Py_ssize_t place = 0; place < number; place++) {
        found[place] = PyLong_AsLongLong(PyList_GET_ITEM(list, place));
        if (PyErr_Occurred() || (found[place] != -1 && !is_there(rows, found[place]))) {
            PyMem_Free(found);
            return NULL;
        }
    }
    return found;
}

/* read_many(rows, tensors) -> the places of those that were not read */
static PyObject *rows_read_many(Rows *self, PyObject *const *arguments, Py_ssize_t count) {
    int64_t *rows;
    if (!are_so_many(count, 2) || !are_lists(arguments[0], arguments[1]) || !(rows = rows_in(self, arguments[0])))
        return NULL;
    int most = threads();
    PyObject *left = PyList_New(0);
    for (Py_ssize_t place = 0; left && place < PyList_GET_SIZE(arguments[1]); place++) {
        Elements all;
        int can = rows[place] >= 0 && elements_of(PyList_GET_ITEM(arguments[1], place), &all);
        if (!(can && fold(row_at(self, rows[place]), all, 1, most) != NOT_DONE) && !append(left, place))
            Py_CLEAR(left);
    }
    PyMem_Free(rows);
    return left;
}

static PyMethodDef rows_methods[] = {
    {"use", (PyCFunction)rows_use, METH_VARARGS, "The rows lie in these counts, moments and parameters from now on."},
    {"read", (PyCFunction)(void *)rows_read, METH_FASTCALL, "Adds a tensor to a row, if it can be read."},
    {"read_times", (PyCFunction)(void *)rows_read_times, METH_FASTCALL, "Adds it so many times."},
    {"read_many", (PyCFunction)(void *)rows_read_many, METH_FASTCALL, "Adds tensors to rows; the places of those left."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject RowsType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "torchboard.sketch._host_fold.Rows",
    .tp_basicsize = sizeof(Rows),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Rows of sketches in the host's memory: counts, moments and parameters.",
    .tp_new = rows_new,
    .tp_dealloc = (destructor)rows_dealloc,
    .tp_methods = rows_methods,
};
