/* read_arena PATH RING COUNT CALLS: how long marketd_last takes, as CALLS int64 of nanoseconds on stdout. */
#define _GNU_SOURCE
#include "marketd.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int main(int argc, char **argv)
{
    marketd_arena arena;
    marketd_ring ring;
    marketd_cut cut;
    if (argc != 5) return fprintf(stderr, "usage: read_arena PATH RING COUNT CALLS\n"), 2;
    int64_t count = atoll(argv[3]), calls = atoll(argv[4]);
    if (marketd_open(&arena, argv[1]) != 0) return fprintf(stderr, "cannot open %s\n", argv[1]), 2;
    if (marketd_find(&arena, argv[2], sizeof(marketd_candle), &ring) != 0) return fprintf(stderr, "no such ring\n"), 2;
    marketd_candle *bars = malloc((size_t)count * sizeof *bars);
    int64_t *taken = malloc((size_t)calls * sizeof *taken);
    for (int64_t i = -1000; i < calls; i++) { /* the first thousand warm up */
        int64_t started = now_ns();
        if (marketd_last(&arena, &ring, count, bars, NULL, &cut) != count) return fprintf(stderr, "too few bars\n"), 2;
        if (i >= 0) taken[i] = now_ns() - started;
    }
    fwrite(taken, sizeof *taken, (size_t)calls, stdout);
    free(bars);
    free(taken);
    marketd_close(&arena);
    return 0;
}
