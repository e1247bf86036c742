/* ``Changes``: samples of tensors, and by how much they change, as Python sees them. */

#include "rows_type.h"

/* A sample of a tensor, then by how much it changed. */
typedef struct {
    Elements all;
    int64_t step, number;
    void *values; /* NULL where the tensor cannot be read */
} Change;

typedef struct {
    PyObject_HEAD
    PyObject *tensors; /* a list */
    Change *each;
    void *memory;
} Changes;

static void changes_dealloc(Changes *self) {
    PyMem_Free(self->each);
    PyMem_RawFree(self->memory);
    Py_XDECREF(self->tensors);
    Py_TYPE(self)->tp_free(self);
}

/* Looks at the tensors, and gives the bytes that their samples take, or -1. */
static int64_t describe(Changes *self, PyObject *steps) {
    int64_t bytes = 0;
    for (Py_ssize_t place = 0; place < PyList_GET_SIZE(self->tensors); place++) {
        Change *change = self->each + place;
        change->step = PyLong_AsLongLong(PyList_GET_ITEM(steps, place));
        if (change->step < 1) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "a step of less than one element");
            return -1;
        }
        change->number = -1;
        if (elements_of(PyList_GET_ITEM(self->tensors, place), &change->all)) {
            change->number = (change->all.number + change->step - 1) / change->step;
            bytes += change->number * size_of(changes_type(change->all.type));
            bytes += -bytes & 7;
        }
    }
    return bytes;
}

static PyObject *changes_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    (void)keywords;
    PyObject *tensors, *steps;
    if (!PyArg_ParseTuple(arguments, "O!O!", &PyList_Type, &tensors, &PyList_Type, &steps) || !are_lists(tensors, steps))
        return NULL;
    Changes *self = (Changes *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    Py_ssize_t number = PyList_GET_SIZE(tensors);
    self->tensors = PyList_GetSlice(tensors, 0, number);
    self->each = PyMem_Calloc((size_t)number + 1, sizeof *self->each);
    int64_t bytes = self->tensors && self->each ? describe(self, steps) : -1;
    self->memory = bytes < 0 ? NULL : PyMem_RawCalloc((size_t)bytes + 1, 1);
    if (!self->memory) {
        Py_DECREF(self);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    char *values = self->memory;
    for (Change *change = self->each; change < self->each + number; change++)
        if (change->number >= 0) {
            change->values = values;
            subtract_from(&change->all, change->step, values, change->number);
            values += (change->number * size_of(changes_type(change->all.type)) + 7) & ~(int64_t)7;
        }
    return (PyObject *)self;
}

/* Whether a tensor is what it was, but for its values and where they lie. */
static int is_still(PyObject *tensor, Elements *all) {
    Elements now;
    int is = elements_of(tensor, &now) && now.number == all->number && now.type == all->type;
    *all = is ? now : *all;
    return is;
}

/* read(rows, numbers) -> the places of those whose change is known and was not read into their row */
static PyObject *changes_read(Changes *self, PyObject *const *arguments, Py_ssize_t count) {
    int64_t *numbers;
    if (!are_so_many(count, 2) || !are_lists(arguments[1], self->tensors))
        return NULL;
    if (!PyObject_TypeCheck(arguments[0], &RowsType))
        return PyErr_Format(PyExc_TypeError, "rows are wanted");
    const Rows *rows = (Rows *)arguments[0];
    if (!(numbers = rows_in(rows, arguments[1])))
        return NULL;
    PyObject *left = PyList_New(0);
    for (Py_ssize_t place = 0; left && place < PyList_GET_SIZE(self->tensors); place++) {
        Change *change = self->each + place;
        if (!change->values || numbers[place] < 0 || !is_still(PyList_GET_ITEM(self->tensors, place), &change->all))
            continue;
        subtract_from(&change->all, change->step, change->values, change->number);
        Elements values = {change->values, change->number, changes_type(change->all.type)};
        if (fold(row_at(rows, numbers[place]), values, 1, 1) == NOT_DONE && !append(left, place))
            Py_CLEAR(left);
    }
    PyMem_Free(numbers);
    return left;
}

static Change *change_at(Changes *self, PyObject *place) {
    Py_ssize_t number = PyLong_AsSsize_t(place);
    if (PyErr_Occurred())
        return NULL;
    if (0 <= number && number < PyList_GET_SIZE(self->tensors))
        return self->each + number;
    PyErr_SetString(PyExc_IndexError, "there is no such tensor");
    return NULL;
}

static PyObject *changes_values(Changes *self, PyObject *place) {
    Change *change = change_at(self, place);
    if (!change)
        return NULL;
    int64_t bytes = change->values ? change->number * size_of(changes_type(change->all.type)) : 0;
    return PyBytes_FromStringAndSize(change->values, (Py_ssize_t)bytes);
}

static PyObject *changes_left(Changes *self, PyObject *none) {
    (void)none;
    PyObject *left = PyList_New(0);
    for (Py_ssize_t place = 0; left && place < PyList_GET_SIZE(self->tensors); place++)
        if (!self->each[place].values && !append(left, place))
            Py_CLEAR(left);
    return left;
}

static PyMethodDef changes_methods[] = {
    {"left", (PyCFunction)changes_left, METH_NOARGS, "The places of tensors that cannot be read."},
    {"read", (PyCFunction)(void *)changes_read, METH_FASTCALL, "Adds each change to a row; the places of those left."},
    {"values", (PyCFunction)changes_values, METH_O, "Bytes: what was kept of a tensor, or, once read, its change."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject ChangesType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "torchboard.sketch._host_fold.Changes",
    .tp_basicsize = sizeof(Changes),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Every n-th element of tensors as they are, and then by how much each of them has changed.",
    .tp_new = changes_new,
    .tp_dealloc = (destructor)changes_dealloc,
    .tp_methods = changes_methods,
};
