/* read_book PATH: prints the newest book, the newest imbalance and the newest buckets of an arena, and what follows
 * from them, with marketd_books.h.
 *
 * Lines: `depth` levels a side; `book` state, bid_count, ask_count, seq; a `level` side price size for each level that
 * is there; `mid` (real); `imbalance` seq, book_1s, state; `buckets` timeframe, base, bid_size[0]. Exit code 1: the book
 * is not live. */
#include "marketd_books.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void print_level(const char *side, int64_t price, int64_t size)
{
    if (price != MARKETD_ABSENT) printf("level %s %" PRId64 " %" PRId64 "\n", side, price, size);
}

static int print_book(const marketd_arena *arena)
{
    marketd_ring ring;
    marketd_cut cut;
    marketd_book book;
    if (marketd_find(arena, "book", 0, &ring) != 0) return fprintf(stderr, "no book\n"), 2;
    printf("depth %" PRId64 "\n", marketd_book_depth(&ring));
    if ((size_t)ring.itemsize != sizeof book) return 0;
    if (marketd_last(arena, &ring, 1, &book, NULL, &cut) != 1) return fprintf(stderr, "no book yet\n"), 2;
    printf("book %d %d %d %" PRId64 "\n", book.state, book.bid_count, book.ask_count, book.seq);
    for (int i = 0; i < 20; i++) print_level("bid", book.bid_price[i], book.bid_size[i]);
    for (int i = 0; i < 20; i++) print_level("ask", book.ask_price[i], book.ask_size[i]);
    if (book.state != MARKETD_BOOK_LIVE) return 1;
    printf("mid %.6f\n", (double)(book.bid_price[0] + book.ask_price[0]) / 2 / pow(10, (double)arena->price_scale));
    return 0;
}

int main(int argc, char **argv)
{
    marketd_arena arena;
    marketd_ring ring;
    marketd_cut cut;
    marketd_imbalance imbalance;
    marketd_buckets buckets;
    if (argc != 2) return fprintf(stderr, "usage: read_book PATH\n"), 2;
    if (marketd_open(&arena, argv[1]) != 0) return fprintf(stderr, "cannot read %s\n", argv[1]), 2;
    int code = print_book(&arena);
    if (marketd_find(&arena, "imbalance", sizeof imbalance, &ring) == 0
        && marketd_last(&arena, &ring, 1, &imbalance, NULL, &cut) == 1)
        printf("imbalance %" PRId64 " %d %d\n", imbalance.seq, imbalance.book_1s, imbalance.state);
    if (marketd_find(&arena, "buckets.1s", sizeof buckets, &ring) == 0
        && marketd_last(&arena, &ring, 1, &buckets, NULL, &cut) == 1)
        printf("buckets %d %" PRId64 " %" PRId64 "\n", buckets.timeframe, buckets.base, buckets.bid_size[0]);
    marketd_close(&arena);
    return code;
}
