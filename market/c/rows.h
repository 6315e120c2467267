/* Levels while they are read: rows of price and size, and what takes them from JSON. */

#ifndef MARKETD_ROWS_H
#define MARKETD_ROWS_H

#include "json.h"

typedef struct {
    PyObject_HEAD
    int price_scale, size_scale;
    PyObject *told; /* what a message is given back with: whose it is */
} ReaderObject;

enum { FEW = 128 };

typedef struct {
    Py_ssize_t count, room;
    int64_t *rows; /* price, size, price, size, … */
    int64_t few[2 * FEW];
} Rows;

/* What rows with times tell besides: the newest time, and the most places of a price and of a size. */
enum { NEWEST, PRICE_PLACES, SIZE_PLACES, TOLD };

enum { MORE_TEXTS = 8 }; /* at most, behind price and size, where a venue writes more than these */

typedef struct {
    Word price, size, side, bid, ask; /* names, and the words of the sides; no side where that has no name */
    enum Writing writing;
    char needs_size; /* else a row without one has 0 */
} Names;

void rows_begin(Rows *rows);
void rows_end(Rows *rows);
LevelsObject *rows_levels(const Rows *rows);
/* (bids, asks), followed by `more` integers. */
PyObject *pair_of(const Rows *bids, const Rows *asks, const int64_t *numbers, Py_ssize_t more);

/* Each takes an array that comes next, or answers 0. */
int take_text_rows(const ReaderObject *reader, Text *text, int more, Rows *rows);
int take_dated_rows(const ReaderObject *reader, Text *text, Rows *rows, int64_t *told);
int take_sided_rows(const ReaderObject *reader, Text *text, const Word *bid, const Word *ask, Rows *bids, Rows *asks);
int take_objects(const ReaderObject *reader, Text *text, const Names *names, Rows *bids, Rows *asks);

#endif
