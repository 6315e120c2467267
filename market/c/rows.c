/* Rows of levels, gathered from the JSON of a venue's message: arrays of arrays, or of objects. */

#include "rows.h"

const int64_t POWERS[MAX_SCALE + 1] = {
    1LL, 10LL, 100LL, 1000LL, 10000LL, 100000LL, 1000000LL, 10000000LL, 100000000LL, 1000000000LL, 10000000000LL,
    100000000000LL, 1000000000000LL, 10000000000000LL, 100000000000000LL, 1000000000000000LL, 10000000000000000LL,
    100000000000000000LL, 1000000000000000000LL,
};

/* ---- rows that are gathered ---- */

void rows_begin(Rows *rows)
{
    rows->count = 0;
    rows->room = FEW;
    rows->rows = rows->few;
}

void rows_end(Rows *rows)
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

LevelsObject *rows_levels(const Rows *rows)
{
    LevelsObject *made = levels_new(rows->count);
    for (Py_ssize_t i = 0; made != NULL && i < rows->count; i++) {
        made->block[i] = rows->rows[2 * i];
        made->block[rows->count + i] = rows->rows[2 * i + 1];
    }
    return made;
}

PyObject *pair_of(const Rows *bids, const Rows *asks, const int64_t *numbers, Py_ssize_t more)
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
int take_text_rows(const ReaderObject *reader, Text *text, int more, Rows *rows)
{
    if (!take(text, '['))
        return 0;
    if (take(text, ']'))
        return 1;
    do {
        int64_t price, size;
        Word passed;
        if (!take(text, '[') || !take_decimal(text, reader->price_scale, TEXTS, &price) || !take(text, ',') ||
            !take_decimal(text, reader->size_scale, TEXTS, &size) || !rows_add(rows, price, size))
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

static int take_dated(const ReaderObject *reader, Text *text, Rows *rows, int64_t *told)
{
    int64_t price, size, ns;
    Word passed;
    if (!take(text, '[') || !take_decimal(text, reader->price_scale, TEXTS, &price))
        return 0;
    if (text->places > told[PRICE_PLACES])
        told[PRICE_PLACES] = text->places;
    if (!take(text, ',') || !take_decimal(text, reader->size_scale, TEXTS, &size))
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
int take_dated_rows(const ReaderObject *reader, Text *text, Rows *rows, int64_t *told)
{
    if (!take(text, '['))
        return 0;
    if (take(text, ']'))
        return 1;
    do {
        if (!take_dated(reader, text, rows, told))
            return 0;
    } while (take(text, ','));
    return take(text, ']');
}

/* [side, price, size]. */
int take_sided_rows(const ReaderObject *reader, Text *text, const Word *bid, const Word *ask, Rows *bids, Rows *asks)
{
    if (!take(text, '['))
        return 0;
    if (take(text, ']'))
        return 1;
    do {
        int64_t price, size;
        Word side;
        if (!take(text, '[') || !take_word(text, &side) || !take(text, ',') ||
            !take_decimal(text, reader->price_scale, TEXTS, &price) || !take(text, ',') ||
            !take_decimal(text, reader->size_scale, TEXTS, &size) || !take(text, ']'))
            return 0;
        Rows *rows = is_word(&side, bid) ? bids : is_word(&side, ask) ? asks : NULL;
        if (rows == NULL || !rows_add(rows, price, size))
            return 0;
    } while (take(text, ','));
    return take(text, ']');
}

/* ---- rows that are objects ---- */

static int take_object(const ReaderObject *reader, Text *text, const Names *names, Rows *bids, Rows *asks)
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
            if (!take_decimal(text, reader->price_scale, names->writing, &price))
                return 0;
        } else if (is_word(&name, &names->size)) {
            if (!take_decimal(text, reader->size_scale, names->writing, &size))
                return 0;
            has_size = 1;
        } else if (names->side.length && is_word(&name, &names->side)) {
            if (!take_word(text, &side))
                return 0;
            is_ask = is_word(&side, &names->ask);
            has_side = 1;
            if (!is_ask && !is_word(&side, &names->bid))
                return 0;
        } else if (!pass_value(text)) {
            return 0;
        }
    } while (take(text, ','));
    return take(text, '}') && has_side && (has_size || !names->needs_size) && rows_add(is_ask ? asks : bids, price, size);
}

int take_objects(const ReaderObject *reader, Text *text, const Names *names, Rows *bids, Rows *asks)
{
    if (!take(text, '['))
        return 0;
    if (take(text, ']'))
        return 1;
    do {
        if (!take_object(reader, text, names, bids, asks))
            return 0;
    } while (take(text, ','));
    return take(text, ']');
}
