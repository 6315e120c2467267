/* `Message`: a message of one form, read from its bytes in one call. */

#include "form.h"

typedef struct {
    PyObject_HEAD
    Form form;
} MessageObject;

/* Kinds whose values are told. */
static int is_told(const Slot *slot) { return slot->kind >= WORD && slot->kind < BIDS && slot->kind != KEY; }

static PyObject *told_of(const Walk *walk, int index)
{
    const Found *found = &walk->found[index];
    const Slot *slot = &walk->form->slots[index];
    if (found->standing == MISSING)
        return Py_NewRef(slot->fallback);
    if (slot->kind == ID)
        return PyUnicode_FromStringAndSize(found->word.begin, found->word.length);
    return PyLong_FromLongLong(found->value);
}

/* (whose, the values in the order of the form, the newest time of levels that have some, bids, asks). */
static PyObject *answer_of(const Walk *walk)
{
    const Form *form = walk->form;
    Py_ssize_t count = 1 + (form->has_dates ? 1 : 0) + (form->has_levels ? 2 : 0), at = 0;
    for (int i = 0; i < form->count; i++)
        count += is_told(&form->slots[i]);
    PyObject *made = PyTuple_New(count);
    if (made == NULL)
        return NULL;
    PyTuple_SET_ITEM(made, at++, Py_NewRef(walk->reader->told));
    for (int i = 0; i < form->count; i++) {
        if (is_told(&form->slots[i]))
            PyTuple_SET_ITEM(made, at++, told_of(walk, i));
    }
    if (form->has_dates)
        PyTuple_SET_ITEM(made, at++, PyLong_FromLongLong(walk->told[NEWEST]));
    if (form->has_levels) {
        PyTuple_SET_ITEM(made, at++, (PyObject *)rows_levels(walk->bids));
        PyTuple_SET_ITEM(made, at++, (PyObject *)rows_levels(walk->asks));
    }
    for (at = 0; at < count; at++) {
        if (PyTuple_GET_ITEM(made, at) == NULL) {
            Py_DECREF(made);
            return NULL;
        }
    }
    return made;
}

static PyObject *message_read(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    const Form *form = &((MessageObject *)self)->form;
    Rows bids, asks;
    Walk walk;
    if (count != 2 || !PyBytes_Check(args[0]) || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "bytes and a dict of readers are wanted");
        return NULL;
    }
    walk_begin(&walk, form, args[1]);
    rows_begin(&bids);
    rows_begin(&asks);
    walk.bids = &bids;
    walk.asks = &asks;
    int taken = form_take(&walk, PyBytes_AS_STRING(args[0]), PyBytes_GET_SIZE(args[0]));
    if (taken > 0)
        taken = walk.reader != NULL && take_waiting(&walk, 0, form->count);
    PyObject *made = NULL;
    if (taken >= 0)
        made = taken ? answer_of(&walk) : Py_NewRef(Py_None);
    rows_end(&bids);
    rows_end(&asks);
    walk_end(&walk);
    return made;
}

/* ---- the class ---- */

static void message_free(PyObject *self)
{
    form_free(&((MessageObject *)self)->form);
    PyObject_Free(self);
}

static PyObject *message_make(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *names[] = {"form", NULL};
    PyObject *written;
    (void)type;
    if (!PyArg_ParseTupleAndKeywords(args, named, "O:Message", names, &written))
        return NULL;
    MessageObject *made = PyObject_New(MessageObject, &MessageType);
    if (made != NULL && form_make(&made->form, written) < 0)
        Py_CLEAR(made);
    return (PyObject *)made;
}

#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef message_methods[] = {
    {"read", FAST(message_read), METH_FASTCALL, "The values of a message, or None; _compiled.pyi."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject MessageType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "marketd.market._compiled.Message",
    .tp_doc = "Reads messages of one form; None for what is not plain throughout.",
    .tp_basicsize = sizeof(MessageObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = message_make,
    .tp_dealloc = message_free,
    .tp_methods = message_methods,
};
