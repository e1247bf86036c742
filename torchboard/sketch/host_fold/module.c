/* What Python sees of the compiled fold; ``host_compiled.py`` says what each is for. Calls keep the interpreter's lock: to give
 * it away and fight for it again would take longer than most folds. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "changes_type.h"

/* squares(tensors) -> a list of floats; None if one of them cannot be read */
static PyObject *squares(PyObject *module, PyObject *tensors) {
    (void)module;
    if (!PyList_Check(tensors))
        return PyErr_Format(PyExc_TypeError, "a list of tensors is wanted");
    PyObject *sums = PyList_New(0);
    for (Py_ssize_t place = 0; sums && place < PyList_GET_SIZE(tensors); place++) {
        Elements all;
        if (!elements_of(PyList_GET_ITEM(tensors, place), &all)) {
            Py_DECREF(sums);
            Py_RETURN_NONE;
        }
        PyObject *sum = PyFloat_FromDouble(squares_of(&all));
        if (!sum || PyList_Append(sums, sum))
            Py_CLEAR(sums);
        Py_XDECREF(sum);
    }
    return sums;
}

/* widen(tensor, inner, low, high) -> whether it could */
static PyObject *widen_all(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    int64_t inner;
    Elements all, low, high;
    if (!are_so_many(count, 4) || !numbers_in(arguments, 1, 1, &inner))
        return NULL;
    if (!elements_of(arguments[0], &all) || !elements_of(arguments[2], &low) || !elements_of(arguments[3], &high) ||
        all.type != FLOAT32 || low.type != FLOAT32 || high.type != FLOAT32)
        Py_RETURN_FALSE;
    if (inner < 1 || !low.number || low.number != high.number || all.number % (low.number * inner))
        return PyErr_Format(PyExc_ValueError, "elements do not fit the units");
    widen((const float *)all.data, all.number, low.number, inner, (float *)low.data, (float *)high.data);
    Py_RETURN_TRUE;
}

/* setup(Tensor, Parameter, kinds, keys_of, dense, threads, lender) */
static PyObject *setup(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *offer;
    if (!PyArg_ParseTuple(arguments, "O!O!O!OO!OO", &PyType_Type, &torch.tensor, &PyType_Type, &torch.parameter, &PyDict_Type,
                          &torch.kinds, &torch.keys_of, &PySet_Type, &torch.dense, &torch.threads, &offer))
        return NULL;
    lend_from(offer);
    Py_INCREF(arguments); /* for as long as the process runs, with all that is in it */
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"setup", setup, METH_VARARGS, "Says what a tensor is that can be read, before anything else."},
    {"squares", squares, METH_O, "The sum of the squares of each tensor's elements."},
    {"widen", (PyCFunction)(void *)widen_all, METH_FASTCALL, "Widens the range of each unit by a tensor's values."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "torchboard.sketch._host_fold", .m_size = -1, .m_methods = functions,
};

static int have_names(void) {
    names.dtype = PyUnicode_InternFromString("dtype");
    names.raw_repr = PyUnicode_InternFromString("raw_repr");
    names.is_contiguous = PyUnicode_InternFromString("is_contiguous");
    names.is_neg = PyUnicode_InternFromString("is_neg");
    names.numel = PyUnicode_InternFromString("numel");
    names.data_ptr = PyUnicode_InternFromString("data_ptr");
    names.is_inference = PyUnicode_InternFromString("is_inference");
    names.version = PyUnicode_InternFromString("_version");
    names.untyped_storage = PyUnicode_InternFromString("untyped_storage");
    return !PyErr_Occurred();
}

PyMODINIT_FUNC PyInit__host_fold(void) {
    PyObject *module = have_names() ? PyModule_Create(&definition) : NULL;
    if (module && (PyModule_AddType(module, &RowsType) || PyModule_AddType(module, &ChangesType) ||
                   PyModule_AddIntConstant(module, "VERSION", VERSION)))
        Py_CLEAR(module);
    return module;
}
