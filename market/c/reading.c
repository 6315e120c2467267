/* `Reader`: levels of one instrument from the JSON that a venue wrote, without a Python object for each text.

Each method answers None where a message is not plain throughout: daemon/feeds/levels.py then reads it by the ways of
Python, which take it or refuse it by name. So nothing is refused here, and nothing is taken that they would not take. */

#include "json.h"

const int64_t POWERS[MAX_SCALE + 1] = {
    1LL, 10LL, 100LL, 1000LL, 10000LL, 100000LL, 1000000LL, 10000000LL, 100000000LL, 1000000000LL, 10000000000LL,
    100000000000LL, 1000000000000LL, 10000000000000LL, 100000000000000LL, 1000000000000000LL, 10000000000000000LL,
    100000000000000000LL, 1000000000000000000LL,
};

typedef struct {
    PyObject_HEAD
    int price_scale, size_scale;
} ReaderObject;

/* ---- rows that are gathered ---- */

enum { FEW = 128 };

typedef struct {
    Py_ssize_t count, room;
    int64_t *rows; /* price, size, price, size, … */
    int64_t few[2 * FEW];
} Rows;

static void rows_begin(Rows *rows)
{
    rows->count = 0;
    rows->room = FEW;
    rows->rows = rows->few;
}

static void rows_end(Rows *rows)
{
    if (rows->rows != rows->few)
        PyMem_Free(rows->rows);
}

static int rows_grow(Rows *rows)
{
    if (rows->room > PY_SSIZE_T_MAX / 64)
        return 0;
    size_t bytes = 2 * (size_t)rows->room * sizeof(int64_t);
    int64_t *more = PyMem_Realloc(rows->rows == rows->few ? NULL : rows->rows, 2 * bytes);
    if (more == NULL)
        return 0; /* Python's way is tried, and says so if there is no memory for that either */
    if (rows->rows == rows->few)
        memcpy(more, rows->few, bytes);
    rows->rows = more;
    rows->room *= 2;
    return 1;
}

/* Whether this can be a level; then it is among the rows. */
static inline int rows_add(Rows *rows, int64_t price, int64_t size)
{
    if (price < 1 || (rows->count == rows->room && !rows_grow(rows)))
        return 0;
    rows->rows[2 * rows->count] = price;
    rows->rows[2 * rows->count++ + 1] = size;
    return 1;
}

static LevelsObject *rows_levels(const Rows *rows)
{
    LevelsObject *made = levels_new(rows->count);
    for (Py_ssize_t i = 0; made != NULL && i < rows->count; i++) {
        made->block[i] = rows->rows[2 * i];
        made->block[rows->count + i] = rows->rows[2 * i + 1];
    }
    return made;
}

/* (bids, asks), followed by `more` integers. */
static PyObject *pair_of(const Rows *bids, const Rows *asks, const int64_t *numbers, Py_ssize_t more)
{
    PyObject *made = PyTuple_New(2 + more);
    if (made == NULL)
        return NULL;
    PyTuple_SET_ITEM(made, 0, (PyObject *)rows_levels(bids));
    PyTuple_SET_ITEM(made, 1, (PyObject *)rows_levels(asks));
    for (Py_ssize_t i = 0; i < more; i++)
        PyTuple_SET_ITEM(made, 2 + i, PyLong_FromLongLong(numbers[i]));
    for (Py_ssize_t i = 0; i < 2 + more; i++) {
        if (PyTuple_GET_ITEM(made, i) == NULL) {
            Py_DECREF(made);
            return NULL;
        }
    }
    return made;
}

/* ---- rows that are arrays ---- */

/* [price, size, …]: a row may have `more` texts behind these, which are passed over. */
static int take_text_rows(const ReaderObject *self, Text *text, int more, Rows *rows)
{
    if (!take(text, '['))
        return 0;
    if (take(text, ']'))
        return 1;
    do {
        int64_t price, size;
        Word passed;
        if (!take(text, '[') || !take_decimal(text, self->price_scale, TEXTS, &price) || !take(text, ',') ||
            !take_decimal(text, self->size_scale, TEXTS, &size) || !rows_add(rows, price, size))
            return 0;
        for (int extra = 0; !take(text, ']'); extra++) {
            if (extra == more || !take(text, ',') || !take_word(text, &passed))
                return 0;
        }
    } while (take(text, ','));
    return take(text, ']');
}

/* Seconds as ten digits and six behind the point, in ns: as texts and as numbers they are in one order. */
static int take_seconds(Text *text, int64_t *ns)
{
    Word word;
    if (!take_word(text, &word) || word.length != 17 || word.begin[10] != '.')
        return 0;
    int64_t us = 0;
    for (int i = 0; i < 17; i++) {
        if (i == 10)
            continue;
        if (word.begin[i] < '0' || word.begin[i] > '9')
            return 0;
        us = 10 * us + (word.begin[i] - '0');
    }
    if (us >= INT64_MAX / 1000000000 * 1000000)
        return 0; /* ns do not reach so far */
    *ns = 1000 * us;
    return 1;
}

/* What rows with times tell besides: the newest time, and the most places of a price and of a size. */
enum { NEWEST, PRICE_PLACES, SIZE_PLACES, TOLD };

static int take_dated(const ReaderObject *self, Text *text, Rows *rows, int64_t *told)
{
    int64_t price, size, ns;
    Word passed;
    if (!take(text, '[') || !take_decimal(text, self->price_scale, TEXTS, &price))
        return 0;
    if (text->places > told[PRICE_PLACES])
        told[PRICE_PLACES] = text->places;
    if (!take(text, ',') || !take_decimal(text, self->size_scale, TEXTS, &size))
        return 0;
    if (text->places > told[SIZE_PLACES])
        told[SIZE_PLACES] = text->places;
    if (!rows_add(rows, price, size) || !take(text, ',') || !take_seconds(text, &ns))
        return 0;
    if (ns > told[NEWEST])
        told[NEWEST] = ns;
    return (!take(text, ',') || take_word(text, &passed)) && take(text, ']');
}

/* [price, size, time] with one text more, perhaps. */
static int take_dated_rows(const ReaderObject *self, Text *text, Rows *rows, int64_t *told)
{
    if (!take(text, '['))
        return 0;
    if (take(text, ']'))
        return 1;
    do {
        if (!take_dated(self, text, rows, told))
            return 0;
    } while (take(text, ','));
    return take(text, ']');
}

/* [side, price, size]. */
static int take_sided_rows(const ReaderObject *self, Text *text, const Word *bid, const Word *ask, Rows *bids, Rows *asks)
{
    if (!take(text, '['))
        return 0;
    if (take(text, ']'))
        return 1;
    do {
        int64_t price, size;
        Word side;
        if (!take(text, '[') || !take_word(text, &side) || !take(text, ',') ||
            !take_decimal(text, self->price_scale, TEXTS, &price) || !take(text, ',') ||
            !take_decimal(text, self->size_scale, TEXTS, &size) || !take(text, ']'))
            return 0;
        Rows *rows = is_word(&side, bid) ? bids : is_word(&side, ask) ? asks : NULL;
        if (rows == NULL || !rows_add(rows, price, size))
            return 0;
    } while (take(text, ','));
    return take(text, ']');
}

/* ---- rows that are objects ---- */

typedef struct {
    Word price, size, side, bid, ask; /* names, and the words of the sides; no side where that has no name */
    enum Writing writing;
    char needs_size; /* else a row without one has 0 */
} Names;

/* A text or number that is of no use. */
static int pass_over(Text *text)
{
    Word word;
    int64_t number;
    if (is_next(text, '"'))
        return take_word(text, &word);
    return take_decimal(text, MAX_SCALE, NUMBERS, &number);
}

static int take_object(const ReaderObject *self, Text *text, const Names *names, Rows *bids, Rows *asks)
{
    int64_t price = 0, size = 0;
    int has_size = 0, is_ask = 0, has_side = names->side.length == 0;
    if (!take(text, '{'))
        return 0;
    do {
        Word name, side;
        if (!take_word(text, &name) || !take(text, ':'))
            return 0;
        if (is_word(&name, &names->price)) {
            if (!take_decimal(text, self->price_scale, names->writing, &price))
                return 0;
        } else if (is_word(&name, &names->size)) {
            if (!take_decimal(text, self->size_scale, names->writing, &size))
                return 0;
            has_size = 1;
        } else if (names->side.length && is_word(&name, &names->side)) {
            if (!take_word(text, &side))
                return 0;
            is_ask = is_word(&side, &names->ask);
            has_side = 1;
            if (!is_ask && !is_word(&side, &names->bid))
                return 0;
        } else if (!pass_over(text)) {
            return 0;
        }
    } while (take(text, ','));
    return take(text, '}') && has_side && (has_size || !names->needs_size) && rows_add(is_ask ? asks : bids, price, size);
}

static int take_objects(const ReaderObject *self, Text *text, const Names *names, Rows *bids, Rows *asks)
{
    if (!take(text, '['))
        return 0;
    if (take(text, ']'))
        return 1;
    do {
        if (!take_object(self, text, names, bids, asks))
            return 0;
    } while (take(text, ','));
    return take(text, ']');
}

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
    more = more ? 8 : 0;
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
    static char *names[] = {"price_scale", "size_scale", NULL};
    int price_scale, size_scale;
    (void)type;
    if (!PyArg_ParseTupleAndKeywords(args, named, "ii:Reader", names, &price_scale, &size_scale))
        return NULL;
    if (price_scale < 0 || price_scale > MAX_SCALE || size_scale < 0 || size_scale > MAX_SCALE) {
        PyErr_Format(PyExc_ValueError, "scales are 0 to %d", MAX_SCALE);
        return NULL;
    }
    ReaderObject *made = PyObject_New(ReaderObject, &ReaderType);
    if (made != NULL) {
        made->price_scale = price_scale;
        made->size_scale = size_scale;
    }
    return (PyObject *)made;
}

static void reader_free(PyObject *self) { PyObject_Free(self); }

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
