/* read_bars PATH RING COUNT: the newest COUNT bars of a ring (300 at most), oldest first: open time in ns, close and
 * volume in units of their scales. With marketd.h this is a whole reader, in under 150 lines. */
#include "marketd.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    marketd_arena arena;
    marketd_ring ring;
    marketd_cut cut;
    marketd_candle bars[300];
    if (argc != 4) return fprintf(stderr, "usage: read_bars PATH RING COUNT\n"), 2;
    int64_t count = atoll(argv[3]) < 300 ? atoll(argv[3]) : 300;
    if (marketd_open(&arena, argv[1]) != 0) return fprintf(stderr, "cannot open %s\n", argv[1]), 2;
    if (marketd_find(&arena, argv[2], sizeof *bars, &ring) != 0) return fprintf(stderr, "no such ring\n"), 2;
    int64_t got = marketd_last(&arena, &ring, count, bars, NULL, &cut);
    for (int64_t i = 0; i < got; i++)
        printf("%" PRId64 " %" PRId64 " %" PRId64 "\n", bars[i].ts, bars[i].close, bars[i].volume);
    marketd_close(&arena);
    return got < 0;
}
