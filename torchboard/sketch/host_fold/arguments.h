/* What Python calls functions with, and what they answer. */

#include "tensors.h"

/* Those of a call's arguments that are numbers: so many, from one on. */
static int numbers_in(PyObject *const *arguments, Py_ssize_t first, Py_ssize_t count, int64_t *numbers) {
    for (Py_ssize_t place = 0; place < count; place++)
        numbers[place] = PyLong_AsLongLong(arguments[first + place]);
    return !PyErr_Occurred();
}

static int are_so_many(Py_ssize_t count, Py_ssize_t wanted) {
    if (count != wanted)
        PyErr_Format(PyExc_TypeError, "%zd arguments are wanted, not %zd", wanted, count);
    return count == wanted;
}

static int are_lists(PyObject *some, PyObject *others) {
    if (PyList_Check(some) && PyList_Check(others) && PyList_GET_SIZE(some) == PyList_GET_SIZE(others))
        return 1;
    PyErr_SetString(PyExc_ValueError, "two lists of one length are wanted");
    return 0;
}

static int append(PyObject *list, Py_ssize_t value) {
    PyObject *number = PyLong_FromSsize_t(value);
    int failed = !number || PyList_Append(list, number);
    Py_XDECREF(number);
    return !failed;
}
