/* The class `OrderBook`: what Python calls and reads. */

#include "compiled.h"

static PyObject *no_bid_edge, *no_ask_edge; /* -(2**64) and 2**64: below and above any price */

/* ---- arguments and answers ---- */

/* A price to look for: what is beyond 64 bits is beyond any price. */
static int bound_of(PyObject *number, int64_t *value)
{
    int overflow;
    *value = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (*value == -1 && !overflow && PyErr_Occurred())
        return -1;
    if (overflow)
        *value = overflow > 0 ? INT64_MAX : LEAST;
    else if (*value < LEAST)
        *value = LEAST;
    return 0;
}

/* An edge; `outward` is the sign of what is beyond any price on its side, which means that there is none. */
static int edge_of(PyObject *number, int outward, char *has, int64_t *value)
{
    int overflow;
    *value = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (*value == -1 && !overflow && PyErr_Occurred())
        return -1;
    if (overflow == -outward || (!overflow && *value < LEAST)) {
        PyErr_SetString(PyExc_OverflowError, "an edge that does not fit into 64 bits");
        return -1;
    }
    *has = overflow == 0;
    return 0;
}

static PyObject *number_or_none(const Side *side, int64_t sign)
{
    if (!side->count)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(sign * side->keys[side->count - 1]);
}

static PyObject *best_size(const Side *side)
{
    return PyLong_FromLongLong(side->count ? side->sizes[side->count - 1] : 0);
}

static PyObject *levels_as_dict(const Side *side, int64_t sign)
{
    PyObject *made = PyDict_New();
    for (Py_ssize_t i = 0; made != NULL && i < side->count; i++) {
        PyObject *price = PyLong_FromLongLong(sign * side->keys[i]), *size = PyLong_FromLongLong(side->sizes[i]);
        if (price == NULL || size == NULL || PyDict_SetItem(made, price, size) < 0)
            Py_CLEAR(made);
        Py_XDECREF(price);
        Py_XDECREF(size);
    }
    return made;
}

/* The best so many of an array, the best first. */
static PyObject *best_first(const int64_t *values, Py_ssize_t count, Py_ssize_t best, int64_t sign)
{
    PyObject *list = PyList_New(best);
    for (Py_ssize_t i = 0; list != NULL && i < best; i++) {
        PyObject *number = PyLong_FromLongLong(sign * values[count - 1 - i]);
        if (number == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, number);
    }
    return list;
}

static PyObject *best_levels; /* the class BestLevels, a NamedTuple */

static PyObject *best_of(BookObject *book, Py_ssize_t bids, Py_ssize_t asks)
{
    const Side *b = &book->bids, *a = &book->asks;
    PyObject *sides = PyTuple_New(4), *made = NULL;
    if (sides == NULL)
        return NULL;
    PyTuple_SET_ITEM(sides, 0, best_first(b->keys, b->count, bids, 1));
    PyTuple_SET_ITEM(sides, 1, best_first(b->sizes, b->count, bids, 1));
    PyTuple_SET_ITEM(sides, 2, best_first(a->keys, a->count, asks, -1));
    PyTuple_SET_ITEM(sides, 3, best_first(a->sizes, a->count, asks, 1));
    if (!PyErr_Occurred())
        made = PyObject_Call(best_levels, sides, NULL);
    Py_DECREF(sides);
    return made;
}

static int depth_of(PyObject *number, Py_ssize_t *depth)
{
    *depth = PyNumber_AsSsize_t(number, PyExc_OverflowError);
    if (*depth == -1 && PyErr_Occurred())
        return -1;
    if (*depth < 0) {
        PyErr_SetString(PyExc_ValueError, "a depth below zero");
        return -1;
    }
    return 0;
}

static Py_ssize_t least(Py_ssize_t one, Py_ssize_t other) { return one < other ? one : other; }

/* ---- what changes it ---- */

static BookObject *book_new(void)
{
    BookObject *made = PyObject_New(BookObject, &BookType);
    if (made != NULL) {
        made->bids = made->asks = (Side){0, 0, NULL, NULL};
        made->window = 0;
        book_know(made, 0, 0, 0, 0);
    }
    return made;
}

static PyObject *book_make(PyTypeObject *type, PyObject *args, PyObject *named)
{
    (void)type;
    if (PyTuple_GET_SIZE(args) || (named != NULL && PyDict_GET_SIZE(named))) {
        PyErr_SetString(PyExc_TypeError, "OrderBook() takes no arguments");
        return NULL;
    }
    return (PyObject *)book_new();
}

static void book_free(BookObject *self)
{
    side_free(&self->bids);
    side_free(&self->asks);
    PyObject_Free(self);
}

static PyObject *py_reset(PyObject *self, PyObject *args, PyObject *named)
{
    static char *names[] = {"bids", "asks", "limit", "window", NULL};
    PyObject *bids, *asks;
    Py_ssize_t limit = 0, window = 0;
    if (!PyArg_ParseTupleAndKeywords(args, named, "OO|nn:reset", names, &bids, &asks, &limit, &window) ||
        !is_levels(bids) || !is_levels(asks))
        return NULL;
    if (window < 0) {
        PyErr_SetString(PyExc_ValueError, "a window below zero");
        return NULL;
    }
    if (book_reset((BookObject *)self, (LevelsObject *)bids, (LevelsObject *)asks, limit, window) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_clear(PyObject *self, PyObject *args, PyObject *named)
{
    static char *names[] = {"window", NULL};
    Py_ssize_t window = 0;
    if (!PyArg_ParseTupleAndKeywords(args, named, "|n:clear", names, &window))
        return NULL;
    LevelsObject *none = levels_new(0);
    PyObject *arguments = none == NULL ? NULL : Py_BuildValue("OOnn", none, none, (Py_ssize_t)0, window);
    PyObject *done = arguments == NULL ? NULL : py_reset(self, arguments, NULL);
    Py_XDECREF(none);
    Py_XDECREF(arguments);
    return done;
}

static PyObject *py_apply(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "apply() takes bids and asks, not %zd arguments", count);
        return NULL;
    }
    if (!is_levels(args[0]) || !is_levels(args[1]))
        return NULL;
    return (PyObject *)book_apply((BookObject *)self, (LevelsObject *)args[0], (LevelsObject *)args[1]);
}

static PyObject *py_follow(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    ChangeObject *change;
    Py_ssize_t most;
    if (count != 3) {
        PyErr_Format(PyExc_TypeError, "follow() takes bids, asks and a number, not %zd arguments", count);
        return NULL;
    }
    if (!is_levels(args[0]) || !is_levels(args[1]) || depth_of(args[2], &most) < 0)
        return NULL;
    int is_sound = book_follow((BookObject *)self, (LevelsObject *)args[0], (LevelsObject *)args[1], most, &change);
    if (is_sound < 0)
        return NULL;
    return is_sound ? (PyObject *)change : Py_NewRef(Py_None);
}

static PyObject *py_revert(PyObject *self, PyObject *change)
{
    if (!is_change(change) || book_revert((BookObject *)self, (ChangeObject *)change) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_cut(PyObject *self, PyObject *number)
{
    Py_ssize_t depth;
    return depth_of(number, &depth) < 0 ? NULL : (PyObject *)book_cut((BookObject *)self, depth);
}

static PyObject *py_know(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    char has_bid, has_ask;
    int64_t bid, ask;
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "know() takes two edges, not %zd arguments", count);
        return NULL;
    }
    if (edge_of(args[0], -1, &has_bid, &bid) < 0 || edge_of(args[1], 1, &has_ask, &ask) < 0)
        return NULL;
    book_know((BookObject *)self, has_bid, bid, has_ask, ask);
    Py_RETURN_NONE;
}

static PyObject *py_widen(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    BookObject *book = (BookObject *)self;
    char has_bid, has_ask;
    int64_t bid, ask;
    if (count != 4) {
        PyErr_Format(PyExc_TypeError, "widen() takes levels and edges of both sides, not %zd arguments", count);
        return NULL;
    }
    if (edge_of(args[2], -1, &has_bid, &bid) < 0 || edge_of(args[3], 1, &has_ask, &ask) < 0)
        return NULL;
    PyObject *change = py_apply(self, args, 2);
    if (change != NULL) {
        has_bid = has_bid && book->has_bid_edge;
        has_ask = has_ask && book->has_ask_edge;
        book_know(book, has_bid, bid < book->bid_edge ? bid : book->bid_edge, has_ask,
                  ask > book->ask_edge ? ask : book->ask_edge);
    }
    return change;
}

static PyObject *py_copy(PyObject *self, PyObject *unused)
{
    BookObject *book = (BookObject *)self, *made = book_new();
    (void)unused;
    if (made == NULL || side_copy(&made->bids, &book->bids) < 0 || side_copy(&made->asks, &book->asks) < 0) {
        Py_XDECREF(made);
        return NULL;
    }
    made->window = book->window;
    book_know(made, book->has_bid_edge, book->bid_edge, book->has_ask_edge, book->ask_edge);
    return (PyObject *)made;
}

/* ---- what is asked of it ---- */

static PyObject *py_top(PyObject *self, PyObject *number)
{
    BookObject *book = (BookObject *)self;
    Py_ssize_t depth;
    if (depth_of(number, &depth) < 0)
        return NULL;
    return best_of(book, least(depth, book->bids.count), least(depth, book->asks.count));
}

/* Levels of a side within its edge; the edge as a key. */
static Py_ssize_t known_of(const Side *side, char has_edge, int64_t key)
{
    return has_edge ? side->count - side_below(side, key) : side->count;
}

static PyObject *py_known(PyObject *self, PyObject *number)
{
    BookObject *book = (BookObject *)self;
    Py_ssize_t depth;
    if (depth_of(number, &depth) < 0)
        return NULL;
    return best_of(book, least(depth, known_of(&book->bids, book->has_bid_edge, book->bid_edge)),
                   least(depth, known_of(&book->asks, book->has_ask_edge, -book->ask_edge)));
}

static int knows_side(const Side *side, char has_edge, int64_t key, Py_ssize_t depth)
{
    return !has_edge || depth == 0 || (side->count >= depth && side->keys[side->count - depth] >= key);
}

static PyObject *py_knows_bids(PyObject *self, PyObject *number)
{
    BookObject *book = (BookObject *)self;
    Py_ssize_t depth;
    if (depth_of(number, &depth) < 0)
        return NULL;
    return PyBool_FromLong(knows_side(&book->bids, book->has_bid_edge, book->bid_edge, depth));
}

static PyObject *py_knows_asks(PyObject *self, PyObject *number)
{
    BookObject *book = (BookObject *)self;
    Py_ssize_t depth;
    if (depth_of(number, &depth) < 0)
        return NULL;
    return PyBool_FromLong(knows_side(&book->asks, book->has_ask_edge, -book->ask_edge, depth));
}

static PyObject *py_knows(PyObject *self, PyObject *number)
{
    BookObject *book = (BookObject *)self;
    Py_ssize_t depth;
    if (depth_of(number, &depth) < 0)
        return NULL;
    return PyBool_FromLong(knows_side(&book->bids, book->has_bid_edge, book->bid_edge, depth) &&
                           knows_side(&book->asks, book->has_ask_edge, -book->ask_edge, depth));
}

static PyObject *py_is_deeper_than(PyObject *self, PyObject *number)
{
    BookObject *book = (BookObject *)self;
    Py_ssize_t depth;
    if (depth_of(number, &depth) < 0)
        return NULL;
    return PyBool_FromLong(book->bids.count > depth || book->asks.count > depth);
}

static int bounds_of(PyObject *const *args, Py_ssize_t count, int64_t *low, int64_t *high)
{
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "two prices are wanted, not %zd arguments", count);
        return -1;
    }
    return bound_of(args[0], low) < 0 || bound_of(args[1], high) < 0 ? -1 : 0;
}

static PyObject *py_bids_within(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    int64_t low, high;
    return bounds_of(args, count, &low, &high) < 0 ? NULL : side_sum(&((BookObject *)self)->bids, low, high);
}

static PyObject *py_asks_within(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    int64_t low, high;
    return bounds_of(args, count, &low, &high) < 0 ? NULL : side_sum(&((BookObject *)self)->asks, -high, -low);
}

static Py_ssize_t book_length(PyObject *self)
{
    return ((BookObject *)self)->bids.count + ((BookObject *)self)->asks.count;
}

static int sides_equal(const Side *one, const Side *other)
{
    size_t bytes = (size_t)one->count * sizeof(int64_t);
    return one->count == other->count &&
           (!bytes || (memcmp(one->keys, other->keys, bytes) == 0 && memcmp(one->sizes, other->sizes, bytes) == 0));
}

static PyObject *book_compare(PyObject *self, PyObject *other, int op)
{
    if (!Py_IS_TYPE(other, &BookType) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    BookObject *one = (BookObject *)self, *two = (BookObject *)other;
    int equal = sides_equal(&one->bids, &two->bids) && sides_equal(&one->asks, &two->asks);
    return PyBool_FromLong(op == Py_EQ ? equal : !equal);
}

static PyObject *book_shown(PyObject *self)
{
    BookObject *book = (BookObject *)self;
    PyObject *bid = number_or_none(&book->bids, 1), *ask = number_or_none(&book->asks, -1), *text = NULL;
    if (bid && ask)
        text = PyUnicode_FromFormat(
            "<OrderBook %zd bids to %S, %zd asks from %S>", book->bids.count, bid, book->asks.count, ask);
    Py_XDECREF(bid);
    Py_XDECREF(ask);
    return text;
}

/* ---- the class ---- */

#define FIELD(name, expression)                                 \
    static PyObject *get_##name(BookObject *book, void *closure) \
    {                                                           \
        (void)closure;                                          \
        return expression;                                      \
    }

FIELD(bids, levels_as_dict(&book->bids, 1))
FIELD(asks, levels_as_dict(&book->asks, -1))
FIELD(best_bid, number_or_none(&book->bids, 1))
FIELD(best_ask, number_or_none(&book->asks, -1))
FIELD(best_bid_size, best_size(&book->bids))
FIELD(best_ask_size, best_size(&book->asks))
FIELD(bid_edge, book->has_bid_edge ? PyLong_FromLongLong(book->bid_edge) : Py_NewRef(no_bid_edge))
FIELD(ask_edge, book->has_ask_edge ? PyLong_FromLongLong(book->ask_edge) : Py_NewRef(no_ask_edge))
FIELD(is_cut, PyBool_FromLong(book->has_bid_edge || book->has_ask_edge))
FIELD(window, PyLong_FromSsize_t(book->window))
FIELD(bid_prices, list_of(book->bids.keys, book->bids.count))
FIELD(ask_prices, best_first(book->asks.keys, book->asks.count, book->asks.count, -1))
FIELD(is_crossed, PyBool_FromLong(book_is_crossed(book)))

#define GET(name, doc) {#name, (getter)get_##name, NULL, doc, NULL}

static PyGetSetDef book_fields[] = {
    GET(bids, "A dict price -> size, made for who asks."),
    GET(asks, "A dict price -> size, made for who asks."),
    GET(best_bid, "None: there is none."),
    GET(best_ask, "None: there is none."),
    GET(best_bid_size, "0: there is none."),
    GET(best_ask_size, "0: there is none."),
    GET(bid_edge, "Down to which bids are known."),
    GET(ask_edge, "Up to which asks are known."),
    GET(is_cut, "A side has an edge."),
    GET(window, "Levels a side that are told; 0: all."),
    GET(bid_prices, "Ascending, the best last."),
    GET(ask_prices, "Ascending, the best first."),
    GET(is_crossed, "The best bid is not below the best ask."),
    {NULL, NULL, NULL, NULL, NULL},
};

#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef book_methods[] = {
    {"reset", FAST(py_reset), METH_VARARGS | METH_KEYWORDS, NULL},
    {"clear", FAST(py_clear), METH_VARARGS | METH_KEYWORDS, NULL},
    {"apply", FAST(py_apply), METH_FASTCALL, "Set these levels, in their order."},
    {"follow", FAST(py_follow), METH_FASTCALL, "Set these levels, if the book is sound then."},
    {"revert", py_revert, METH_O, "Take the newest change back."},
    {"cut", py_cut, METH_O, NULL},
    {"know", FAST(py_know), METH_FASTCALL, NULL},
    {"widen", FAST(py_widen), METH_FASTCALL, NULL},
    {"copy", py_copy, METH_NOARGS, "Another book that is like this one."},
    {"__copy__", py_copy, METH_NOARGS, NULL},
    {"__deepcopy__", py_copy, METH_O, NULL},
    {"top", py_top, METH_O, NULL},
    {"known", py_known, METH_O, NULL},
    {"knows", py_knows, METH_O, NULL},
    {"knows_bids", py_knows_bids, METH_O, NULL},
    {"knows_asks", py_knows_asks, METH_O, NULL},
    {"is_deeper_than", py_is_deeper_than, METH_O, NULL},
    {"bids_within", FAST(py_bids_within), METH_FASTCALL, NULL},
    {"asks_within", FAST(py_asks_within), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PySequenceMethods book_as_sequence = {.sq_length = book_length};

PyTypeObject BookType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "marketd.market._compiled.OrderBook",
    .tp_doc = "Both sides of one instrument's book; market/plain_book.py describes it.",
    .tp_basicsize = sizeof(BookObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = book_make,
    .tp_dealloc = (destructor)book_free,
    .tp_repr = book_shown,
    .tp_richcompare = book_compare,
    .tp_hash = PyObject_HashNotImplemented,
    .tp_as_sequence = &book_as_sequence,
    .tp_getset = book_fields,
    .tp_methods = book_methods,
};

int book_type_ready(void)
{
    PyObject *module = PyImport_ImportModule("marketd.market.plain_book");
    if (module == NULL)
        return -1;
    best_levels = PyObject_GetAttrString(module, "BestLevels");
    no_bid_edge = PyObject_GetAttrString(module, "NO_BID_EDGE");
    no_ask_edge = PyObject_GetAttrString(module, "NO_ASK_EDGE");
    Py_DECREF(module);
    return best_levels && no_bid_edge && no_ask_edge ? PyType_Ready(&BookType) : -1;
}
