/* What the C files of `marketd.market._compiled` share. market/compiled.py tells what the module is for.

The Python classes (market/plain_book.py, daemon/feeds/levels.py) are the reference: what is done here is done quicker, and
in no other way. Whatever is not certainly plain is handed back to Python, which takes or refuses it.

Integers are 64 bits wide, and INT64_MIN is none of them: it stands for an absent field, and has no negation. */

#ifndef MARKETD_COMPILED_H
#define MARKETD_COMPILED_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>

#define INTERFACE 5 /* market/compiled.py has the same; it grows with each change of what Python calls here */
#define MAX_SCALE 18
#define LEAST (-INT64_MAX)

/* ---- levels.c: columns of integers, and the values that travel ---- */

/* A column of integers. It is an array until somebody asks for the list; from then on the list holds, which may be
changed from outside. */
typedef struct {
    Py_ssize_t count;
    const int64_t *values; /* in the block of the object that has the column */
    PyObject *list;        /* NULL, or what holds in place of the array */
} Column;

/* A look at a column: `held` is freed by `view_end`. */
typedef struct {
    Py_ssize_t count;
    const int64_t *values;
    int64_t *held;
} View;

typedef struct {
    PyObject_VAR_HEAD
    Column prices, sizes;
    int64_t block[];
} LevelsObject;

typedef struct {
    PyObject_VAR_HEAD
    LevelsObject *bids, *asks;
    Column bids_before, asks_before;
    int64_t block[];
} ChangeObject;

extern PyTypeObject LevelsType, ChangeType;

/* Levels with room for `count`, to be filled in through `block`: prices, then sizes. */
LevelsObject *levels_new(Py_ssize_t count);
/* A change of these levels with room for what was before: bids, then asks. Takes its own references. */
ChangeObject *change_new(LevelsObject *bids, LevelsObject *asks, Py_ssize_t bids_count, Py_ssize_t asks_count);
/* -1 with OverflowError or TypeError where the column is a list of anything but 64-bit integers. */
int view_begin(View *view, const Column *column);
void view_end(View *view);
PyObject *list_of(const int64_t *values, Py_ssize_t count);
int is_levels(PyObject *object); /* or TypeError */
int is_change(PyObject *object);
/* Whether these can be levels, or -1 with an exception. */
int levels_are_possible(const LevelsObject *levels);
PyObject *change_then(PyObject *change, PyObject *later);

/* ---- side.c: one side of a book ---- */

/* Keys ascending, the best last, with each its size, which is never 0. A key is the price of a bid, and of an ask the
negated price. */
typedef struct {
    Py_ssize_t count, room;
    int64_t *keys, *sizes;
} Side;

void side_free(Side *side);
int side_reserve(Side *side, Py_ssize_t more); /* MemoryError, or as many more levels can be set */
/* Set a level for which there is room; the size that was there before. */
int64_t side_set(Side *side, int64_t key, int64_t size);
/* Begin anew with rows in any order; of several of one key the last holds. */
int side_reset(Side *side, const View *prices, const View *sizes, int64_t sign);
int side_copy(Side *made, const Side *side);
/* How many keys are below `key`. */
Py_ssize_t side_below(const Side *side, int64_t key);
void side_drop(Side *side, Py_ssize_t count); /* the worst ones */
/* The sum of sizes with low <= key <= high, whatever it is: many sizes do not fit into 64 bits together. */
PyObject *side_sum(const Side *side, int64_t low, int64_t high);

/* ---- book.c, book_type.c ---- */

typedef struct {
    PyObject_HEAD
    Side bids, asks;
    int64_t bid_edge, ask_edge; /* where there is one */
    char has_bid_edge, has_ask_edge;
    Py_ssize_t window; /* levels a side that are told; 0: all */
} BookObject;

extern PyTypeObject BookType;

int book_type_ready(void); /* what the class needs of Python, once */

int book_reset(BookObject *book, LevelsObject *bids, LevelsObject *asks, Py_ssize_t limit, Py_ssize_t window);
ChangeObject *book_apply(BookObject *book, LevelsObject *bids, LevelsObject *asks);
int book_revert(BookObject *book, ChangeObject *change);
int book_is_crossed(const BookObject *book);
/* 1 and the change, 0 where the book would not be sound then and stays as it was, or -1 with an exception. */
int book_follow(BookObject *book, LevelsObject *bids, LevelsObject *asks, Py_ssize_t most, ChangeObject **change);
ChangeObject *book_cut(BookObject *book, Py_ssize_t depth);
void book_know(BookObject *book, char has_bid, int64_t bid, char has_ask, int64_t ask);

/* ---- times.c ---- */

/* Whether this is a time in words as venues write it; then it is in ns. */
int moment_of(const char *text, Py_ssize_t length, int64_t *ns);

/* ---- reading.c, message.c, trades.c, checksums.c, times.c: what the module offers besides ---- */

extern PyTypeObject ReaderType, MessageType, TradeMessageType;
PyObject *digits_of_best(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *texts_of_best(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *moment_ns(PyObject *module, PyObject *text);
PyObject *batch_column(PyObject *module, PyObject *const *args, Py_ssize_t count);

extern const int64_t POWERS[MAX_SCALE + 1];

#endif
