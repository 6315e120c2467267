/* The module `marketd.market._compiled`. */

#include "compiled.h"

#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef functions[] = {
    {"digits_of_best", FAST(digits_of_best), METH_FASTCALL, "Asks, then bids, as digits; _compiled.pyi."},
    {"texts_of_best", FAST(texts_of_best), METH_FASTCALL, "Bids and asks in turns, as texts; _compiled.pyi."},
    {"batch_column", FAST(batch_column), METH_FASTCALL, "A column of a compressed batch; _compiled.pyi."},
    {"moment_ns", moment_ns, METH_O, "A time in words, in ns; _compiled.pyi."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "marketd.market._compiled",
    .m_doc = "Order books and compressed batches in C. market/compiled.py tells whether it is used; nothing else imports it.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__compiled(void)
{
    static const struct {
        const char *name;
        PyTypeObject *type;
    } classes[] = {
        {"Levels", &LevelsType}, {"Change", &ChangeType}, {"OrderBook", &BookType}, {"Reader", &ReaderType},
        {"Message", &MessageType}, {"TradeMessage", &TradeMessageType}};
    if (book_type_ready() < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        if (PyType_Ready(classes[i].type) < 0 ||
            PyModule_AddObjectRef(module, classes[i].name, (PyObject *)classes[i].type) < 0) {
            Py_DECREF(module);
            return NULL;
        }
    }
    return module;
}
