/* What changes an `OrderBook`: reset, apply, revert, cut, know. market/plain_book.py has the same, in Python. */

#include "compiled.h"

/* Prices and sizes of levels, as many of both, or ValueError as zip() raises it. */
static int rows_begin(View *prices, View *sizes, LevelsObject *levels)
{
    sizes->held = NULL;
    if (view_begin(prices, &levels->prices) < 0)
        return -1;
    if (view_begin(sizes, &levels->sizes) < 0) {
        view_end(prices);
        return -1;
    }
    if (prices->count == sizes->count)
        return 0;
    PyErr_Format(PyExc_ValueError, "zip() argument 2 is %s than argument 1",
                 sizes->count < prices->count ? "shorter" : "longer");
    view_end(prices);
    view_end(sizes);
    return -1;
}

void book_know(BookObject *book, char has_bid, int64_t bid, char has_ask, int64_t ask)
{
    book->has_bid_edge = has_bid;
    book->has_ask_edge = has_ask;
    book->bid_edge = has_bid ? bid : 0;
    book->ask_edge = has_ask ? ask : 0;
}

/* Of a side with as many levels as are told the last of these is the edge. */
static void draw_edges(BookObject *book)
{
    const Side *bids = &book->bids, *asks = &book->asks;
    char has_bid = bids->count >= book->window, has_ask = asks->count >= book->window;
    book_know(book, has_bid, has_bid ? bids->keys[bids->count - book->window] : 0, has_ask,
              has_ask ? -asks->keys[asks->count - book->window] : 0);
}

/* Where one side rests, the other has nothing: that is known from now on, since what comes there is told. */
static void move_edges(BookObject *book)
{
    const Side *bids = &book->bids, *asks = &book->asks;
    if (book->has_bid_edge && asks->count && -asks->keys[asks->count - 1] < book->bid_edge)
        book->bid_edge = -asks->keys[asks->count - 1];
    if (book->has_ask_edge && bids->count && bids->keys[bids->count - 1] > book->ask_edge)
        book->ask_edge = bids->keys[bids->count - 1];
}

static void see_edges(BookObject *book)
{
    if (book->window)
        draw_edges(book);
    else
        move_edges(book);
}

static void cut_side(Side *side, Py_ssize_t depth)
{
    if (side->count > depth)
        side_drop(side, side->count - depth);
}

int book_reset(BookObject *book, LevelsObject *bids, LevelsObject *asks, Py_ssize_t limit, Py_ssize_t window)
{
    View bid_prices, bid_sizes, ask_prices, ask_sizes;
    Side new_bids = {0, 0, NULL, NULL}, new_asks = {0, 0, NULL, NULL};
    if (rows_begin(&bid_prices, &bid_sizes, bids) < 0)
        return -1;
    int failed = rows_begin(&ask_prices, &ask_sizes, asks);
    if (!failed) {
        failed = side_reset(&new_bids, &bid_prices, &bid_sizes, 1);
        if (!failed)
            failed = side_reset(&new_asks, &ask_prices, &ask_sizes, -1);
        view_end(&ask_prices);
        view_end(&ask_sizes);
    }
    view_end(&bid_prices);
    view_end(&bid_sizes);
    if (failed) {
        side_free(&new_bids);
        side_free(&new_asks);
        return -1;
    }
    side_free(&book->bids);
    side_free(&book->asks);
    book->bids = new_bids;
    book->asks = new_asks;
    book->window = window;
    char has_bid = limit > 0 && limit <= new_bids.count, has_ask = limit > 0 && limit <= new_asks.count;
    book_know(book, has_bid, has_bid ? new_bids.keys[0] : 0, has_ask, has_ask ? -new_asks.keys[0] : 0);
    if (window) {
        cut_side(&book->bids, window);
        cut_side(&book->asks, window);
    }
    see_edges(book);
    return 0;
}

static void set_side(Side *side, const View *prices, const View *sizes, int64_t sign, int64_t *before)
{
    for (Py_ssize_t i = 0; i < prices->count; i++)
        before[i] = side_set(side, sign * prices->values[i], sizes->values[i]);
}

ChangeObject *book_apply(BookObject *book, LevelsObject *bids, LevelsObject *asks)
{
    View bid_prices, bid_sizes, ask_prices, ask_sizes;
    ChangeObject *change = NULL;
    if (rows_begin(&bid_prices, &bid_sizes, bids) < 0)
        return NULL;
    if (rows_begin(&ask_prices, &ask_sizes, asks) == 0) {
        /* whatever can fail does so before anything is changed */
        if (side_reserve(&book->bids, bid_prices.count) == 0 && side_reserve(&book->asks, ask_prices.count) == 0)
            change = change_new(bids, asks, bid_prices.count, ask_prices.count);
        if (change != NULL) {
            set_side(&book->bids, &bid_prices, &bid_sizes, 1, change->block);
            set_side(&book->asks, &ask_prices, &ask_sizes, -1, change->block + bid_prices.count);
            see_edges(book);
        }
        view_end(&ask_prices);
        view_end(&ask_sizes);
    }
    view_end(&bid_prices);
    view_end(&bid_sizes);
    return change;
}

/* Prices of levels, and the sizes that were there before; as many of both. */
static int undo_begin(View *prices, View *before, const Column *price_column, const Column *before_column)
{
    before->held = NULL;
    if (view_begin(prices, price_column) < 0)
        return -1;
    if (view_begin(before, before_column) == 0) {
        if (prices->count == before->count)
            return 0;
        PyErr_SetString(PyExc_ValueError, "zip() arguments of different length: no change is like that");
        view_end(before);
    }
    view_end(prices);
    return -1;
}

static void undo_side(Side *side, const View *prices, const View *before, int64_t sign)
{
    for (Py_ssize_t i = prices->count - 1; i >= 0; i--)
        side_set(side, sign * prices->values[i], before->values[i]);
}

int book_revert(BookObject *book, ChangeObject *change)
{
    View bid_prices, bids_before, ask_prices, asks_before;
    int failed = -1;
    if (undo_begin(&bid_prices, &bids_before, &change->bids->prices, &change->bids_before) < 0)
        return -1;
    if (undo_begin(&ask_prices, &asks_before, &change->asks->prices, &change->asks_before) == 0) {
        if (side_reserve(&book->bids, bid_prices.count) == 0 && side_reserve(&book->asks, ask_prices.count) == 0) {
            undo_side(&book->bids, &bid_prices, &bids_before, 1);
            undo_side(&book->asks, &ask_prices, &asks_before, -1);
            see_edges(book);
            failed = 0;
        }
        view_end(&ask_prices);
        view_end(&asks_before);
    }
    view_end(&bid_prices);
    view_end(&bids_before);
    return failed;
}

/* The worst levels of a side as levels of size 0, and their sizes to `before`. */
static LevelsObject *dropped(const Side *side, Py_ssize_t count, int64_t sign)
{
    LevelsObject *levels = levels_new(count);
    if (levels == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        levels->block[i] = sign * side->keys[i];
        levels->block[count + i] = 0;
    }
    return levels;
}

ChangeObject *book_cut(BookObject *book, Py_ssize_t depth)
{
    /* as in Python, where keys[:-0] are none */
    Py_ssize_t bid_count = depth && book->bids.count > depth ? book->bids.count - depth : 0;
    Py_ssize_t ask_count = depth && book->asks.count > depth ? book->asks.count - depth : 0;
    LevelsObject *bids = dropped(&book->bids, bid_count, 1), *asks = NULL;
    ChangeObject *change = NULL;
    if (bids != NULL)
        asks = dropped(&book->asks, ask_count, -1);
    if (asks != NULL)
        change = change_new(bids, asks, bid_count, ask_count);
    if (change != NULL) {
        if (bid_count)
            memcpy(change->block, book->bids.sizes, (size_t)bid_count * sizeof(int64_t));
        if (ask_count)
            memcpy(change->block + bid_count, book->asks.sizes, (size_t)ask_count * sizeof(int64_t));
        side_drop(&book->bids, bid_count);
        side_drop(&book->asks, ask_count);
    }
    Py_XDECREF(bids);
    Py_XDECREF(asks);
    return change;
}

int book_is_crossed(const BookObject *book)
{
    const Side *bids = &book->bids, *asks = &book->asks;
    return bids->count && asks->count && bids->keys[bids->count - 1] >= -asks->keys[asks->count - 1];
}

/* The change and what is cut to the window then, as one; NULL with an exception. Takes over the change. */
static ChangeObject *cut_to_window(BookObject *book, ChangeObject *change)
{
    if (!book->window || (book->bids.count <= book->window && book->asks.count <= book->window))
        return change;
    ChangeObject *cut = book_cut(book, book->window), *both = NULL;
    if (cut != NULL)
        both = (ChangeObject *)change_then((PyObject *)change, (PyObject *)cut);
    Py_XDECREF(cut);
    Py_DECREF(change);
    return both;
}

int book_follow(BookObject *book, LevelsObject *bids, LevelsObject *asks, Py_ssize_t most, ChangeObject **change)
{
    int possible = levels_are_possible(bids);
    if (possible > 0)
        possible = levels_are_possible(asks);
    if (possible <= 0)
        return possible;
    *change = book_apply(book, bids, asks);
    if (*change != NULL)
        *change = cut_to_window(book, *change);
    if (*change == NULL)
        return -1;
    if (!book_is_crossed(book) && book->bids.count + book->asks.count <= most)
        return 1;
    int failed = book_revert(book, *change);
    Py_DECREF(*change);
    return failed;
}
