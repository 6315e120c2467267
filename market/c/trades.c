/* `TradeMessage`: a message of trades of one instrument, from its bytes to rows of records in one call. */

#include "form.h"

enum Role { NO_ROLE, TIME, NUMBER, SIDE, MARKET, SEEN, TOLD_TOO, ROLES }; /* as in daemon/feeds/forms.py */

enum { ROW_BYTES = 56, MOST_ID_DIGITS = 19 }; /* a row: market/layouts.py, TRADE */

typedef struct {
    PyObject_HEAD
    Form form;
    int slot_of[ROLES], price, size; /* -1: there is none */
    int is_reversed;                 /* the venue writes the newest first */
    int flags, other_flags, hashed_flags;
    PyObject *hash_of; /* of an id that is no integer */
} TradeMessageObject;

typedef struct {
    Walk walk; /* the first, so that a row finds its message */
    const TradeMessageObject *message;
    const Node *row; /* the part of the form that is one trade */
    unsigned char *rows, few[8 * ROW_BYTES];
    Py_ssize_t count, room;
    int64_t seen; /* the newest time */
} Trades;

static unsigned char *put(unsigned char *to, uint64_t number, int bytes)
{
    for (int i = 0; i < bytes; i++)
        *to++ = (unsigned char)(number >> 8 * i);
    return to;
}

/* An id as a number; a text of anything but digits is hashed in Python. 1, or -1 with an exception. */
static int number_of(const TradeMessageObject *message, const Found *found, int64_t *number, int *flags)
{
    const Word *word = &found->word;
    uint64_t value = 0;
    Py_ssize_t i = 0;
    if (message->form.slots[message->slot_of[NUMBER]].kind != ID) {
        *number = found->value;
        return 1;
    }
    while (i < word->length && i < MOST_ID_DIGITS && word->begin[i] >= '0' && word->begin[i] <= '9')
        value = 10 * value + (uint64_t)(word->begin[i++] - '0');
    *number = (int64_t)value;
    if (i && i == word->length && value <= INT64_MAX)
        return 1;
    PyObject *hashed = PyObject_CallFunction(message->hash_of, "s#", word->begin, word->length);
    *number = hashed == NULL ? -1 : PyLong_AsLongLong(hashed);
    *flags |= message->hashed_flags;
    Py_XDECREF(hashed);
    return *number == -1 && PyErr_Occurred() ? -1 : 1;
}

static int room_for_one(Trades *trades)
{
    if (trades->count < trades->room)
        return 1;
    size_t bytes = (size_t)trades->room * ROW_BYTES;
    unsigned char *more = PyMem_Realloc(trades->rows == trades->few ? NULL : trades->rows, 2 * bytes);
    if (more == NULL)
        return 0; /* Python's way says so if there is no memory for that either */
    if (trades->rows == trades->few)
        memcpy(more, trades->few, bytes);
    trades->rows = more;
    trades->room *= 2;
    return 1;
}

static int is_within(int slot, const Node *node) { return slot >= node->first && slot < node->end; }

/* Whether all of a trade is there. */
static int is_whole(const Walk *walk, const TradeMessageObject *message)
{
    const int needed[] = {message->slot_of[TIME], message->slot_of[NUMBER], message->slot_of[SIDE], message->price,
                          message->size};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        if (walk->found[needed[i]].standing != TAKEN)
            return 0;
    }
    return walk->found[message->price].value > 0;
}

static int on_trade(Walk *walk, const Node *node)
{
    Trades *trades = (Trades *)walk;
    const TradeMessageObject *message = trades->message;
    const int *slot_of = message->slot_of;
    int64_t number;
    if (!take_waiting(walk, node->first, node->end) || !is_whole(walk, message) || !room_for_one(trades))
        return 0;
    int is_other = slot_of[MARKET] >= 0 && value_of(walk, slot_of[MARKET]) != 0;
    int flags = is_other ? message->other_flags : message->flags;
    if (number_of(message, &walk->found[slot_of[NUMBER]], &number, &flags) < 0)
        return -1;
    unsigned char *to = trades->rows + trades->count++ * ROW_BYTES;
    to = put(to, (uint64_t)walk->found[slot_of[TIME]].value, 8);
    to = put(put(to, 0, 8), 0, 8); /* stamped later */
    to = put(to, (uint64_t)number, 8);
    to = put(to, (uint64_t)walk->found[message->price].value, 8);
    to = put(to, (uint64_t)walk->found[message->size].value, 8);
    to = put(to, (uint64_t)(walk->found[slot_of[SIDE]].value ? -1 : 1), 4);
    put(to, (uint64_t)flags, 4);
    if (is_within(slot_of[SEEN], node) && value_of(walk, slot_of[SEEN]) > trades->seen)
        trades->seen = value_of(walk, slot_of[SEEN]);
    trades->row = node;
    for (int i = node->first; i < node->end; i++)
        walk->found[i].standing = MISSING;
    return 1;
}

/* What is no part of a row must be there, too. */
static int ends_well(Trades *trades)
{
    const Form *form = trades->walk.form;
    const Node *row = trades->row;
    int seen = trades->message->slot_of[SEEN];
    if (row == NULL || !take_waiting(&trades->walk, 0, row->first) || !take_waiting(&trades->walk, row->end, form->count))
        return 0;
    if (!is_within(seen, row))
        trades->seen = value_of(&trades->walk, seen);
    return 1;
}

/* A form without repeated parts is one trade. */
static int take_all(Trades *trades, PyObject *frame)
{
    Walk *walk = &trades->walk;
    int taken = form_take(walk, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame));
    if (taken > 0 && !walk->form->repeated)
        taken = on_trade(walk, &walk->form->root);
    return taken > 0 ? ends_well(trades) : taken;
}

static PyObject *rows_of(const Trades *trades)
{
    PyObject *made = PyBytes_FromStringAndSize(NULL, trades->count * ROW_BYTES);
    if (made == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(made);
    for (Py_ssize_t i = 0; i < trades->count; i++) {
        Py_ssize_t row = trades->message->is_reversed ? trades->count - 1 - i : i;
        memcpy(to + i * ROW_BYTES, trades->rows + row * ROW_BYTES, ROW_BYTES);
    }
    return made;
}

static long long told_too(const Trades *trades)
{
    int slot = trades->message->slot_of[TOLD_TOO];
    return slot < 0 ? 0 : value_of(&trades->walk, slot);
}

static PyObject *trades_read(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    const TradeMessageObject *message = (TradeMessageObject *)self;
    Trades trades;
    if (count != 2 || !PyBytes_Check(args[0]) || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "bytes and a dict of readers are wanted");
        return NULL;
    }
    walk_begin(&trades.walk, &message->form, args[1]);
    trades.walk.on_row = on_trade;
    trades.message = message;
    trades.rows = trades.few;
    trades.count = 0;
    trades.room = sizeof trades.few / ROW_BYTES;
    trades.seen = 0;
    int taken = take_all(&trades, args[0]);
    PyObject *made = NULL;
    if (taken > 0)
        made = Py_BuildValue("OLNL", trades.walk.reader->told, (long long)trades.seen, rows_of(&trades), told_too(&trades));
    else if (taken == 0)
        made = Py_NewRef(Py_None);
    if (trades.rows != trades.few)
        PyMem_Free(trades.rows);
    walk_end(&trades.walk);
    return made;
}

/* ---- the class ---- */

static void trades_free(PyObject *self)
{
    TradeMessageObject *message = (TradeMessageObject *)self;
    form_free(&message->form);
    Py_XDECREF(message->hash_of);
    PyObject_Free(self);
}

/* Which slots have the parts of a trade. */
static int roles_make(TradeMessageObject *message)
{
    const Form *form = &message->form;
    for (int role = 0; role < ROLES; role++)
        message->slot_of[role] = -1;
    message->price = message->size = -1;
    for (int i = 0; i < form->count; i++) {
        const Slot *slot = &form->slots[i];
        if (slot->role > NO_ROLE && slot->role < ROLES)
            message->slot_of[slot->role] = i;
        if (slot->kind == PRICE)
            message->price = i;
        if (slot->kind == SIZE)
            message->size = i;
    }
    if (form->has_levels) {
        PyErr_SetString(PyExc_ValueError, "a trade has no levels");
        return -1;
    }
    if (message->slot_of[SEEN] < 0)
        message->slot_of[SEEN] = message->slot_of[TIME];
    if (message->slot_of[TIME] >= 0 && message->slot_of[NUMBER] >= 0 && message->slot_of[SIDE] >= 0 &&
        message->price >= 0 && message->size >= 0)
        return 0;
    PyErr_SetString(PyExc_ValueError, "a trade has a time, a number, a side, a price and a size");
    return -1;
}

static PyObject *trades_make(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *names[] = {"form", "flags", "other_flags", "hashed_flags", "hash_of", "is_reversed", NULL};
    PyObject *written, *hash_of;
    int flags, other, hashed, is_reversed;
    (void)type;
    if (!PyArg_ParseTupleAndKeywords(args, named, "OiiiOp:TradeMessage", names, &written, &flags, &other, &hashed,
                                     &hash_of, &is_reversed))
        return NULL;
    TradeMessageObject *made = PyObject_New(TradeMessageObject, &TradeMessageType);
    if (made == NULL)
        return NULL;
    made->flags = flags;
    made->other_flags = other;
    made->hashed_flags = hashed;
    made->is_reversed = is_reversed;
    made->hash_of = Py_NewRef(hash_of);
    if (form_make(&made->form, written) < 0 || roles_make(made) < 0)
        Py_CLEAR(made);
    return (PyObject *)made;
}

#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef trades_methods[] = {
    {"read", FAST(trades_read), METH_FASTCALL, "Whose the trades are, the newest time, and rows of records, or None."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject TradeMessageType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "marketd.market._compiled.TradeMessage",
    .tp_doc = "Reads messages of trades of one form; None for what is not plain throughout.",
    .tp_basicsize = sizeof(TradeMessageObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = trades_make,
    .tp_dealloc = trades_free,
    .tp_methods = trades_methods,
};
