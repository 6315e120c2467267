/* `Levels` and `Change`: arrays for whoever computes here, lists for whoever asks in Python. */

#include "compiled.h"

/* ---- columns ---- */

PyObject *list_of(const int64_t *values, Py_ssize_t count)
{
    PyObject *list = PyList_New(count);
    if (list == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *number = PyLong_FromLongLong(values[i]);
        if (number == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, number);
    }
    return list;
}

static int number_of(PyObject *item, int64_t *value)
{
    int overflow;
    PyObject *index = PyNumber_Index(item);
    if (index == NULL)
        return -1;
    *value = PyLong_AsLongLongAndOverflow(index, &overflow);
    Py_DECREF(index);
    if (overflow || *value < LEAST) {
        PyErr_SetString(PyExc_OverflowError, "a price or size that does not fit into 64 bits");
        return -1;
    }
    return *value == -1 && PyErr_Occurred() ? -1 : 0;
}

int view_begin(View *view, const Column *column)
{
    view->held = NULL;
    if (column->list == NULL) {
        view->count = column->count;
        view->values = column->values;
        return 0;
    }
    /* a tuple, so that no __index__ that is called below can change what is gone through */
    PyObject *items = PySequence_Tuple(column->list);
    if (items == NULL)
        return -1;
    view->count = PyTuple_GET_SIZE(items);
    view->held = PyMem_New(int64_t, view->count ? view->count : 1);
    view->values = view->held;
    if (view->held == NULL) {
        Py_DECREF(items);
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < view->count; i++) {
        if (number_of(PyTuple_GET_ITEM(items, i), &view->held[i]) < 0) {
            Py_DECREF(items);
            view_end(view);
            return -1;
        }
    }
    Py_DECREF(items);
    return 0;
}

void view_end(View *view)
{
    PyMem_Free(view->held);
    view->held = NULL;
}

/* The list, which holds from now on. A new reference. */
static PyObject *column_list(Column *column)
{
    if (column->list == NULL)
        column->list = list_of(column->values, column->count);
    return Py_XNewRef(column->list);
}

/* The column as a list that is thrown away. */
static PyObject *column_shown(const Column *column)
{
    return column->list == NULL ? list_of(column->values, column->count) : Py_NewRef(column->list);
}

static int columns_equal(const Column *one, const Column *other)
{
    if (one->list == NULL && other->list == NULL)
        return one->count == other->count && memcmp(one->values, other->values, one->count * sizeof(int64_t)) == 0;
    PyObject *a = column_shown(one), *b = column_shown(other);
    int equal = a && b ? PyObject_RichCompareBool(a, b, Py_EQ) : -1;
    Py_XDECREF(a);
    Py_XDECREF(b);
    return equal;
}

static PyObject *answer_of(int equal, int op)
{
    if (equal < 0)
        return NULL;
    return PyBool_FromLong(op == Py_EQ ? equal : !equal);
}

/* ---- Levels ---- */

LevelsObject *levels_new(Py_ssize_t count)
{
    LevelsObject *made = PyObject_NewVar(LevelsObject, &LevelsType, 2 * count);
    if (made == NULL)
        return NULL;
    made->prices = (Column){count, made->block, NULL};
    made->sizes = (Column){count, made->block + count, NULL};
    return made;
}

int is_levels(PyObject *object)
{
    if (Py_IS_TYPE(object, &LevelsType))
        return 1;
    PyErr_Format(PyExc_TypeError, "levels are a Levels, not %.100s", Py_TYPE(object)->tp_name);
    return 0;
}

static PyObject *levels_make(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *names[] = {"prices", "sizes", NULL};
    PyObject *prices, *sizes;
    (void)type;
    if (!PyArg_ParseTupleAndKeywords(args, named, "OO:Levels", names, &prices, &sizes))
        return NULL;
    LevelsObject *made = levels_new(0);
    if (made == NULL)
        return NULL;
    made->prices.list = Py_NewRef(prices);
    made->sizes.list = Py_NewRef(sizes);
    return (PyObject *)made;
}

static void levels_free(LevelsObject *self)
{
    Py_XDECREF(self->prices.list);
    Py_XDECREF(self->sizes.list);
    PyObject_Free(self);
}

static PyObject *levels_prices(LevelsObject *self, void *closure)
{
    (void)closure;
    return column_list(&self->prices);
}

static PyObject *levels_sizes(LevelsObject *self, void *closure)
{
    (void)closure;
    return column_list(&self->sizes);
}

/* Beyond 64 bits nothing is possible; whatever else is wrong with a list is told. */
int levels_are_possible(const LevelsObject *self)
{
    View prices, sizes;
    if (view_begin(&prices, &self->prices) < 0 || view_begin(&sizes, &self->sizes) < 0) {
        view_end(&prices);
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    int possible = prices.count == sizes.count;
    for (Py_ssize_t i = 0; possible && i < prices.count; i++)
        possible = prices.values[i] > 0 && sizes.values[i] >= 0;
    view_end(&prices);
    view_end(&sizes);
    return possible;
}

static PyObject *levels_possible(LevelsObject *self, void *closure)
{
    int possible = levels_are_possible(self);
    (void)closure;
    return possible < 0 ? NULL : PyBool_FromLong(possible);
}

static PyObject *levels_compare(PyObject *self, PyObject *other, int op)
{
    if (!Py_IS_TYPE(other, &LevelsType) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    LevelsObject *one = (LevelsObject *)self, *two = (LevelsObject *)other;
    int equal = columns_equal(&one->prices, &two->prices);
    return answer_of(equal == 1 ? columns_equal(&one->sizes, &two->sizes) : equal, op);
}

static PyObject *levels_shown(LevelsObject *self)
{
    PyObject *prices = column_shown(&self->prices), *sizes = column_shown(&self->sizes);
    PyObject *text = prices && sizes ? PyUnicode_FromFormat("Levels(prices=%R, sizes=%R)", prices, sizes) : NULL;
    Py_XDECREF(prices);
    Py_XDECREF(sizes);
    return text;
}

static PyGetSetDef levels_fields[] = {
    {"prices", (getter)levels_prices, NULL, "list[int]", NULL},
    {"sizes", (getter)levels_sizes, NULL, "list[int]; a size of 0 removes the level", NULL},
    {"is_possible", (getter)levels_possible, NULL, "Prices above zero, no size below, and as many of both.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject LevelsType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "marketd.market._compiled.Levels",
    .tp_doc = "Levels of one side at the instrument's scales.",
    .tp_basicsize = offsetof(LevelsObject, block),
    .tp_itemsize = sizeof(int64_t),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = levels_make,
    .tp_dealloc = (destructor)levels_free,
    .tp_repr = (reprfunc)levels_shown,
    .tp_richcompare = levels_compare,
    .tp_hash = PyObject_HashNotImplemented,
    .tp_getset = levels_fields,
};

/* ---- Change ---- */

ChangeObject *change_new(LevelsObject *bids, LevelsObject *asks, Py_ssize_t bids_count, Py_ssize_t asks_count)
{
    ChangeObject *made = PyObject_NewVar(ChangeObject, &ChangeType, bids_count + asks_count);
    if (made == NULL)
        return NULL;
    made->bids = (LevelsObject *)Py_NewRef(bids);
    made->asks = (LevelsObject *)Py_NewRef(asks);
    made->bids_before = (Column){bids_count, made->block, NULL};
    made->asks_before = (Column){asks_count, made->block + bids_count, NULL};
    return made;
}

int is_change(PyObject *object)
{
    if (Py_IS_TYPE(object, &ChangeType))
        return 1;
    PyErr_Format(PyExc_TypeError, "a change is a Change, not %.100s", Py_TYPE(object)->tp_name);
    return 0;
}

static PyObject *change_make(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *names[] = {"bids", "asks", "bids_before", "asks_before", NULL};
    PyObject *bids, *asks, *bids_before, *asks_before;
    (void)type;
    if (!PyArg_ParseTupleAndKeywords(args, named, "OOOO:Change", names, &bids, &asks, &bids_before, &asks_before) ||
        !is_levels(bids) || !is_levels(asks))
        return NULL;
    ChangeObject *made = change_new((LevelsObject *)bids, (LevelsObject *)asks, 0, 0);
    if (made == NULL)
        return NULL;
    made->bids_before.list = Py_NewRef(bids_before);
    made->asks_before.list = Py_NewRef(asks_before);
    return (PyObject *)made;
}

static void change_free(ChangeObject *self)
{
    Py_DECREF(self->bids);
    Py_DECREF(self->asks);
    Py_XDECREF(self->bids_before.list);
    Py_XDECREF(self->asks_before.list);
    PyObject_Free(self);
}

static PyObject *change_bids(ChangeObject *self, void *closure)
{
    (void)closure;
    return Py_NewRef(self->bids);
}

static PyObject *change_asks(ChangeObject *self, void *closure)
{
    (void)closure;
    return Py_NewRef(self->asks);
}

static PyObject *change_bids_before(ChangeObject *self, void *closure)
{
    (void)closure;
    return column_list(&self->bids_before);
}

static PyObject *change_asks_before(ChangeObject *self, void *closure)
{
    (void)closure;
    return column_list(&self->asks_before);
}

/* 1: no row of the one column equals that of the other; 0: some does; -1: error */
static int columns_differ(const Column *one, const Column *two)
{
    View a, b;
    if (view_begin(&a, one) < 0)
        return -1;
    if (view_begin(&b, two) < 0) {
        view_end(&a);
        return -1;
    }
    Py_ssize_t row = 0, rows = a.count < b.count ? a.count : b.count;
    while (row < rows && a.values[row] != b.values[row])
        row++;
    view_end(&a);
    view_end(&b);
    return row == rows;
}

static PyObject *change_is_exact(ChangeObject *self, void *closure)
{
    (void)closure;
    int exact = columns_differ(&self->bids->sizes, &self->bids_before);
    if (exact == 1)
        exact = columns_differ(&self->asks->sizes, &self->asks_before);
    return exact < 0 ? NULL : PyBool_FromLong(exact);
}

/* Two columns, one behind the other, into `to`, where there is room for both. */
static int column_copy(int64_t *to, const Column *column, Py_ssize_t room)
{
    View view;
    if (view_begin(&view, column) < 0)
        return -1;
    if (view.count != room) {
        PyErr_SetString(PyExc_ValueError, "zip() arguments of different length: levels changed meanwhile");
        view_end(&view);
        return -1;
    }
    memcpy(to, view.values, view.count * sizeof(int64_t));
    view_end(&view);
    return 0;
}

static Py_ssize_t column_length(const Column *column)
{
    return column->list == NULL ? column->count : PyObject_Length(column->list);
}

static LevelsObject *levels_joined(LevelsObject *first, LevelsObject *second)
{
    Py_ssize_t a = column_length(&first->prices), b = column_length(&second->prices);
    LevelsObject *made = a < 0 || b < 0 ? NULL : levels_new(a + b);
    if (made == NULL)
        return NULL;
    int64_t *prices = made->block, *sizes = made->block + a + b;
    if (column_copy(prices, &first->prices, a) < 0 || column_copy(prices + a, &second->prices, b) < 0 ||
        column_copy(sizes, &first->sizes, a) < 0 || column_copy(sizes + a, &second->sizes, b) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}

PyObject *change_then(PyObject *object, PyObject *later)
{
    ChangeObject *self = (ChangeObject *)object, *next = (ChangeObject *)later, *made = NULL;
    if (!is_change(later))
        return NULL;
    LevelsObject *bids = levels_joined(self->bids, next->bids);
    LevelsObject *asks = bids == NULL ? NULL : levels_joined(self->asks, next->asks);
    Py_ssize_t b1 = column_length(&self->bids_before), b2 = column_length(&next->bids_before);
    Py_ssize_t a1 = column_length(&self->asks_before), a2 = column_length(&next->asks_before);
    if (asks != NULL && b1 >= 0 && b2 >= 0 && a1 >= 0 && a2 >= 0)
        made = change_new(bids, asks, b1 + b2, a1 + a2);
    if (made != NULL) {
        int64_t *to = made->block;
        if (column_copy(to, &self->bids_before, b1) < 0 || column_copy(to + b1, &next->bids_before, b2) < 0 ||
            column_copy(to + b1 + b2, &self->asks_before, a1) < 0 ||
            column_copy(to + b1 + b2 + a1, &next->asks_before, a2) < 0)
            Py_CLEAR(made);
    }
    Py_XDECREF(bids);
    Py_XDECREF(asks);
    return (PyObject *)made;
}

static PyObject *change_compare(PyObject *self, PyObject *other, int op)
{
    if (!Py_IS_TYPE(other, &ChangeType) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    ChangeObject *one = (ChangeObject *)self, *two = (ChangeObject *)other;
    const Column *columns[][2] = {
        {&one->bids->prices, &two->bids->prices}, {&one->bids->sizes, &two->bids->sizes},
        {&one->asks->prices, &two->asks->prices}, {&one->asks->sizes, &two->asks->sizes},
        {&one->bids_before, &two->bids_before},   {&one->asks_before, &two->asks_before},
    };
    int equal = 1;
    for (size_t i = 0; equal == 1 && i < sizeof columns / sizeof *columns; i++)
        equal = columns_equal(columns[i][0], columns[i][1]);
    return answer_of(equal, op);
}

static PyObject *change_shown(ChangeObject *self)
{
    PyObject *bids = column_shown(&self->bids_before), *asks = column_shown(&self->asks_before), *text = NULL;
    if (bids && asks)
        text = PyUnicode_FromFormat(
            "Change(bids=%R, asks=%R, bids_before=%R, asks_before=%R)", self->bids, self->asks, bids, asks);
    Py_XDECREF(bids);
    Py_XDECREF(asks);
    return text;
}

static PyGetSetDef change_fields[] = {
    {"bids", (getter)change_bids, NULL, "Levels that were set", NULL},
    {"asks", (getter)change_asks, NULL, "Levels that were set", NULL},
    {"bids_before", (getter)change_bids_before, NULL, "list[int]: the size that each had just before", NULL},
    {"asks_before", (getter)change_asks_before, NULL, "list[int]: the size that each had just before", NULL},
    {"is_exact", (getter)change_is_exact, NULL, "Each of these levels had another size before", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef change_methods[] = {
    {"then", change_then, METH_O, "This change and a later one, as one."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject ChangeType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "marketd.market._compiled.Change",
    .tp_doc = "What one `OrderBook.apply` did.",
    .tp_basicsize = offsetof(ChangeObject, block),
    .tp_itemsize = sizeof(int64_t),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = change_make,
    .tp_dealloc = (destructor)change_free,
    .tp_repr = (reprfunc)change_shown,
    .tp_richcompare = change_compare,
    .tp_hash = PyObject_HashNotImplemented,
    .tp_getset = change_fields,
    .tp_methods = change_methods,
};
