/* `Reader`: levels of one instrument from the JSON that a venue wrote, without a Python object for each text.

Each method answers None where a message is not plain throughout: daemon/feeds/levels.py then reads it by the ways of
Python, which take it or refuse it by name. So nothing is refused here, and nothing is taken that they would not take. */

#include "rows.h"

/* ---- the methods ---- */

static int text_begin(Text *text, Py_buffer *buffer, PyObject *written)
{
    if (PyObject_GetBuffer(written, buffer, PyBUF_SIMPLE) < 0)
        return -1;
    text->at = buffer->buf;
    text->end = text->at + buffer->len;
    return 0;
}

static int at_end(Text *text)
{
    skip_blanks(text);
    return text->at == text->end;
}

static int count_is(const char *name, Py_ssize_t count, Py_ssize_t wanted)
{
    if (count == wanted)
        return 1;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, not %zd", name, wanted, count);
    return 0;
}

static PyObject *reader_sides(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Text bid_text, ask_text;
    Py_buffer bid_buffer, ask_buffer;
    Rows bids, asks;
    if (!count_is("sides", count, 3))
        return NULL;
    int more = PyObject_IsTrue(args[2]);
    if (more < 0 || text_begin(&bid_text, &bid_buffer, args[0]) < 0)
        return NULL;
    if (text_begin(&ask_text, &ask_buffer, args[1]) < 0) {
        PyBuffer_Release(&bid_buffer);
        return NULL;
    }
    rows_begin(&bids);
    rows_begin(&asks);
    more = more ? MORE_TEXTS : 0;
    int is_plain = take_text_rows((ReaderObject *)self, &bid_text, more, &bids) && at_end(&bid_text) &&
                   take_text_rows((ReaderObject *)self, &ask_text, more, &asks) && at_end(&ask_text);
    PyObject *made = is_plain ? pair_of(&bids, &asks, NULL, 0) : Py_NewRef(Py_None);
    rows_end(&bids);
    rows_end(&asks);
    PyBuffer_Release(&bid_buffer);
    PyBuffer_Release(&ask_buffer);
    return made;
}

static PyObject *reader_dated(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Text bid_text, ask_text;
    Py_buffer bid_buffer, ask_buffer;
    Rows bids, asks;
    int64_t told[TOLD] = {INT64_MIN, 0, 0};
    if (!count_is("dated", count, 2) || text_begin(&bid_text, &bid_buffer, args[0]) < 0)
        return NULL;
    if (text_begin(&ask_text, &ask_buffer, args[1]) < 0) {
        PyBuffer_Release(&bid_buffer);
        return NULL;
    }
    rows_begin(&bids);
    rows_begin(&asks);
    int is_plain = take_dated_rows((ReaderObject *)self, &bid_text, &bids, told) && at_end(&bid_text) &&
                   take_dated_rows((ReaderObject *)self, &ask_text, &asks, told) && at_end(&ask_text);
    PyObject *made = is_plain ? pair_of(&bids, &asks, told, TOLD) : Py_NewRef(Py_None);
    rows_end(&bids);
    rows_end(&asks);
    PyBuffer_Release(&bid_buffer);
    PyBuffer_Release(&ask_buffer);
    return made;
}

static int word_of(PyObject *object, Word *word)
{
    if (!PyBytes_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "names are bytes");
        return 0;
    }
    *word = (Word){PyBytes_AS_STRING(object), PyBytes_GET_SIZE(object)};
    return 1;
}

static PyObject *reader_sided(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Text text;
    Py_buffer buffer;
    Rows bids, asks;
    Word bid, ask;
    if (!count_is("sided", count, 3) || !word_of(args[1], &bid) || !word_of(args[2], &ask) ||
        text_begin(&text, &buffer, args[0]) < 0)
        return NULL;
    rows_begin(&bids);
    rows_begin(&asks);
    int is_plain = take_sided_rows((ReaderObject *)self, &text, &bid, &ask, &bids, &asks) && at_end(&text);
    PyObject *made = is_plain ? pair_of(&bids, &asks, NULL, 0) : Py_NewRef(Py_None);
    rows_end(&bids);
    rows_end(&asks);
    PyBuffer_Release(&buffer);
    return made;
}

/* 1 where all of these arrays were taken, 0 where one is not plain, -1 with an exception. */
static int take_arrays(const ReaderObject *self, PyObject *arrays, const Names *names, Rows *bids, Rows *asks)
{
    int is_plain = 1;
    for (Py_ssize_t i = 0; is_plain && i < PyTuple_GET_SIZE(arrays); i++) {
        Text text;
        Py_buffer buffer;
        if (text_begin(&text, &buffer, PyTuple_GET_ITEM(arrays, i)) < 0)
            return -1;
        is_plain = take_objects(self, &text, names, bids, asks) && at_end(&text);
        PyBuffer_Release(&buffer);
    }
    return is_plain;
}

static PyObject *reader_objects(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Rows bids, asks;
    Names names;
    if (!count_is("objects", count, 8) || !word_of(args[1], &names.price) || !word_of(args[2], &names.size) ||
        !word_of(args[3], &names.side) || !word_of(args[4], &names.bid) || !word_of(args[5], &names.ask))
        return NULL;
    long writing = PyLong_AsLong(args[6]);
    int needs_size = PyObject_IsTrue(args[7]);
    if ((writing == -1 && PyErr_Occurred()) || needs_size < 0)
        return NULL;
    if (!PyTuple_Check(args[0]) || writing < TEXTS || writing > REALS) {
        PyErr_SetString(PyExc_TypeError, "a tuple of arrays and a way of writing are wanted");
        return NULL;
    }
    names.writing = (enum Writing)writing;
    names.needs_size = (char)needs_size;
    rows_begin(&bids);
    rows_begin(&asks);
    int is_plain = take_arrays((ReaderObject *)self, args[0], &names, &bids, &asks);
    PyObject *made = NULL;
    if (is_plain >= 0)
        made = is_plain ? pair_of(&bids, &asks, NULL, 0) : Py_NewRef(Py_None);
    rows_end(&bids);
    rows_end(&asks);
    return made;
}

/* ---- the class ---- */

static PyObject *reader_make(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *names[] = {"price_scale", "size_scale", "told", NULL};
    int price_scale, size_scale;
    PyObject *told = Py_None;
    (void)type;
    if (!PyArg_ParseTupleAndKeywords(args, named, "ii|O:Reader", names, &price_scale, &size_scale, &told))
        return NULL;
    if (price_scale < 0 || price_scale > MAX_SCALE || size_scale < 0 || size_scale > MAX_SCALE) {
        PyErr_Format(PyExc_ValueError, "scales are 0 to %d", MAX_SCALE);
        return NULL;
    }
    ReaderObject *made = PyObject_New(ReaderObject, &ReaderType);
    if (made != NULL) {
        made->price_scale = price_scale;
        made->size_scale = size_scale;
        made->told = Py_NewRef(told);
    }
    return (PyObject *)made;
}

static void reader_free(PyObject *self)
{
    Py_DECREF(((ReaderObject *)self)->told);
    PyObject_Free(self);
}

#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef reader_methods[] = {
    {"sides", FAST(reader_sides), METH_FASTCALL, "Two arrays of [price, size], with more texts behind these if the third argument allows."},
    {"dated", FAST(reader_dated), METH_FASTCALL, "Two arrays of [price, size, seconds]; _compiled.pyi tells what follows."},
    {"sided", FAST(reader_sided), METH_FASTCALL, "One array of [side, price, size]; what bids and asks are called follows."},
    {"objects", FAST(reader_objects), METH_FASTCALL, "Arrays of objects; _compiled.pyi names the arguments."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject ReaderType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "marketd.market._compiled.Reader",
    .tp_doc = "Reads levels of one instrument; None for what is not plain throughout.",
    .tp_basicsize = sizeof(ReaderObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = reader_make,
    .tp_dealloc = reader_free,
    .tp_methods = reader_methods,
};
