/* read_arena PATH trade|candle.… COUNT CUTS: reads CUTS cuts of a live arena with marketd.h and prints the last.
 *
 * Lines: `cut` with number, ts_known, ts_event, seq, journal_offset, head, revision, since; `state`; a `record` for
 * each record and an `open` for each open bar, in 8-byte words. Exit code 1: a cut whose newest record,
 * newest time and head do not belong together, or that is older than the one before. */
#include "marketd.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static void print_words(const char *what, const void *data, int64_t bytes)
{
    const int64_t *words = data;
    printf("%s", what);
    for (int64_t i = 0; i < bytes / 8; i++) printf(" %" PRId64, words[i]);
    printf("\n");
}

/* `seq` counts the records of all kinds, so trades of one cut rise in it and none is beyond the cut's. Where there are
 * `only` trades it counts them from 1, and the newest one's event time is the cut's. */
static int is_mixed(const marketd_trade *trades, int64_t count, const marketd_cut *cut, int64_t last_number, int only)
{
    if (cut->number < last_number) return 1;
    for (int64_t i = 0; i < count; i++) {
        if (trades[i].ts_known > cut->ts_known || trades[i].seq > cut->seq || trades[i].ts_event > cut->ts_event) return 1;
        if (i > 0 && trades[i].seq <= trades[i - 1].seq) return 1;
        if (only && trades[i].seq != cut->head - count + 1 + i) return 1;
    }
    return only && count > 0 && (trades[count - 1].ts_event != cut->ts_event || cut->seq != cut->head);
}

int main(int argc, char **argv)
{
    marketd_arena arena;
    marketd_ring ring, books;
    marketd_cut cut = {0};
    if (argc != 5) return fprintf(stderr, "usage: read_arena PATH RING COUNT CUTS\n"), 2;
    int trades = strcmp(argv[2], "trade") == 0;
    int64_t count = atoll(argv[3]), cuts = atoll(argv[4]), got = 0;
    size_t size = trades ? sizeof(marketd_trade) : sizeof(marketd_candle);
    int code = marketd_open(&arena, argv[1]);
    if (code == 0) code = marketd_find(&arena, argv[2], size, &ring);
    if (code != 0) return fprintf(stderr, "cannot read %s of %s: %d\n", argv[2], argv[1], code), 2;
    int only = marketd_find(&arena, "book", 0, &books) != 0; /* a venue's arena has books, ticks and bars too */
    void *records = malloc((size_t)ring.capacity * size);
    marketd_candle *open_bars = malloc(((size_t)arena.open_slots + 1) * sizeof *open_bars);
    for (int64_t i = 0; i < cuts; i++) {
        int64_t last_number = cut.number;
        got = marketd_last(&arena, &ring, count, records, open_bars, &cut);
        if (got < 0) return fprintf(stderr, "cut %" PRId64 ": %" PRId64 "\n", i, got), 2;
        if (trades && is_mixed(records, got, &cut, last_number, only)) return fprintf(stderr, "mixed cut\n"), 1;
    }
    print_words("cut", &cut, sizeof cut);
    printf("state %" PRId64 "\n", marketd_state(&arena));
    for (int64_t i = 0; i < got; i++) print_words("record", (char *)records + (size_t)i * size, (int64_t)size);
    for (int64_t i = 0; i < arena.open_slots; i++)
        if (open_bars[i].ts != MARKETD_ABSENT) print_words("open", &open_bars[i], sizeof *open_bars);
    free(records);
    free(open_bars);
    marketd_close(&arena);
    return 0;
}
