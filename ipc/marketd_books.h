/* marketd_books.h - the records of order books, of what is made of them, and of bars by activity, for marketd.h. */
#ifndef MARKETD_BOOKS_H
#define MARKETD_BOOKS_H

#include "marketd.h"

/* A book has book.depth levels a side, the best first; a level that is not there is MARKETD_ABSENT. Only in the state
 * MARKETD_BOOK_LIVE are there any. MARKETD_BOOK(50) is the struct of a daemon that keeps 50. */
#define MARKETD_BOOK(DEPTH)                                                                                  \
    struct {                                                                                                 \
        int64_t ts_event, ts_known, seq, sequence;                                                           \
        int16_t bid_count, ask_count, state, flags;                                                          \
        int64_t bid_price[DEPTH], bid_size[DEPTH], ask_price[DEPTH], ask_size[DEPTH];                        \
    }
typedef MARKETD_BOOK(20) marketd_book; /* as deep as books are unless book.depth says otherwise */
enum { MARKETD_BOOK_EMPTY = 0, MARKETD_BOOK_SYNCING = 1, MARKETD_BOOK_LIVE = 2, MARKETD_BOOK_STALE = 3 };
typedef struct {
    int64_t ts_event, ts_known, seq, mid2, spread, bid_size, ask_size, best_bid_size, best_ask_size;
    int32_t book_1s, book_5s, book_15s, book_60s, volume_1s, volume_5s, volume_15s, volume_60s; /* 1e-6; INT32_MIN: none */
    int32_t state, reason;
} marketd_imbalance;
typedef struct {
    int64_t ts, ts_known, seq, width, base;
    int32_t timeframe;
    int16_t state, flags;
    int64_t bid_size[32], ask_size[32];
} marketd_buckets;
typedef struct { /* a bar by activity; measure: 1 tick, 2 volume, 3 dollar */
    int64_t ts_event, ts_known, seq, ts_start, threshold;
    int64_t open, high, low, close, volume, quote_volume, buy_volume, trade_count;
    int32_t measure, flags;
} marketd_activity_bar;
_Static_assert(sizeof(marketd_book) == 680 && sizeof(marketd_imbalance) == 112 && sizeof(marketd_buckets) == 560
                   && sizeof(marketd_activity_bar) == 112,
               "records have no padding");

/* Levels a side of the books in a ring. */
static inline int64_t marketd_book_depth(const marketd_ring *r) { return (r->itemsize - 40) / 32; }

#endif
