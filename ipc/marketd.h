/* marketd.h - read a marketd arena from C11, on x86-64. docs/arena.md tells the layout and the sync points.
 *
 *     marketd_arena a; marketd_ring r; marketd_cut cut; marketd_candle bars[300];
 *     if (marketd_open(&a, "/dev/shm/marketd-default/arena/BTCUSDT.BINANCE.arena") != 0) ...
 *     if (marketd_find(&a, "candle.1m.own", sizeof *bars, &r) != 0) ...
 *     int64_t n = marketd_last(&a, &r, 300, bars, NULL, &cut);
 *
 * Functions return a count or 0, or one of the negative codes below. Nothing here allocates or blocks.
 * marketd_books.h adds the records of books, of what is made of them, and of bars by activity. */
#ifndef MARKETD_H
#define MARKETD_H

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if !defined(__x86_64__)
#error "a marketd arena relies on the order in which x86-64 makes stores visible"
#endif

enum { MARKETD_WARMING = 1, MARKETD_LIVE = 2, MARKETD_RETIRED = 3 };
enum {
    MARKETD_SYSTEM = -1,     /* errno tells */
    MARKETD_UNREADABLE = -2, /* no arena, or of another version */
    MARKETD_NO_RING = -3,    /* no such ring, or its records have another size */
    MARKETD_CONTENDED = -4   /* the writer was faster in every attempt */
};
#define MARKETD_ABSENT INT64_MIN /* a field without a value; an open bar's ts: no bar */
#define MARKETD_ATTEMPTS 1000

typedef struct { int64_t ts_event, ts_known, seq, trade_id, price, size; int32_t side, flags; } marketd_trade;
typedef struct {
    int64_t ts, ts_known, seq, open, high, low, close, volume, quote_volume, buy_volume, trade_count;
    int32_t timeframe;
    int16_t source, flags;
} marketd_candle;
_Static_assert(sizeof(marketd_trade) == 56 && sizeof(marketd_candle) == 96, "records have no padding");

typedef struct {
    const uint8_t *base;
    size_t size;
    int64_t descriptors, stride, open_offset, open_slots; /* of the descriptors */
    int64_t instrument, price_scale, size_scale, quote_scale;
} marketd_arena;
typedef struct { int64_t ordinal, itemsize, slots, capacity, offset, images, live; } marketd_ring;
typedef struct { int64_t number, ts_known, ts_event, seq, journal_offset, head, revision, since; } marketd_cut;

static inline int64_t marketd_word(const marketd_arena *a, int64_t offset)
{
    return __atomic_load_n((const int64_t *)(a->base + offset), __ATOMIC_ACQUIRE);
}

static inline int64_t marketd_state(const marketd_arena *a) { return marketd_word(a, 16); }

/* How long ago the writer last showed that it is alive; now_ns: CLOCK_MONOTONIC. */
static inline int64_t marketd_stale_ns(const marketd_arena *a, int64_t now_ns)
{
    return now_ns - marketd_word(a, 128);
}

static inline void marketd_close(marketd_arena *a) { munmap((void *)a->base, a->size); }

static inline int marketd_open(marketd_arena *a, const char *path)
{
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return MARKETD_SYSTEM;
    if (fstat(file, &status) != 0 || status.st_size < 4096) { close(file); return MARKETD_UNREADABLE; }
    a->size = (size_t)status.st_size;
    void *base = mmap(NULL, a->size, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
    close(file);
    if (base == MAP_FAILED) return MARKETD_SYSTEM;
    a->base = base;
    if (memcmp(a->base, "MARKETD", 8) != 0 || marketd_word(a, 8) != 1 || marketd_word(a, 312) != 8
        || marketd_word(a, 256) != status.st_size) {
        marketd_close(a);
        return MARKETD_UNREADABLE;
    }
    memcpy(&a->descriptors, a->base + 296, 16);
    memcpy(&a->open_offset, a->base + 320, 16);
    memcpy(&a->instrument, a->base + 336, 32);
    return 0;
}

/* itemsize: of the struct that records are read into; 0: any, and ring->itemsize tells. */
static inline int marketd_find(const marketd_arena *a, const char *name, size_t itemsize, marketd_ring *ring)
{
    const uint8_t *entry = a->base + marketd_word(a, 280);
    for (int64_t i = 0; i < marketd_word(a, 272); i++, entry += marketd_word(a, 288)) {
        if (strncmp((const char *)entry, name, 48) != 0) continue;
        ring->ordinal = i;
        memcpy(&ring->itemsize, entry + 56, 48);
        return itemsize == 0 || (size_t)ring->itemsize == itemsize ? 0 : MARKETD_NO_RING;
    }
    return MARKETD_NO_RING;
}

/* Positions [start, end) from the slots, or the before-images, that begin at `offset`. */
static inline void marketd_copy(const marketd_arena *a, const marketd_ring *r, int64_t offset, int64_t start,
                                int64_t end, uint8_t *out)
{
    while (start < end) {
        int64_t slot = start % r->slots, count = r->slots - slot;
        if (count > end - start) count = end - start;
        memcpy(out, a->base + offset + slot * r->itemsize, (size_t)(count * r->itemsize));
        out += count * r->itemsize;
        start += count;
    }
    __atomic_thread_fence(__ATOMIC_ACQUIRE); /* the words that judge the copy are loaded after it */
}

/* The newest `count` records of a ring (its capacity at most), oldest first; fewer when it has fewer.
 * `open_bars`: room for a->open_slots candles of the same cut, or NULL. */
static inline int64_t marketd_last(const marketd_arena *a, const marketd_ring *r, int64_t count, void *out,
                                   marketd_candle *open_bars, marketd_cut *cut)
{
    uint8_t *records = out;
    count = count < 0 ? 0 : count > r->capacity ? r->capacity : count;
    for (int attempt = 0; attempt < MARKETD_ATTEMPTS; attempt++) {
        int64_t number = marketd_word(a, 64); /* A2 slots-before-publish */
        const uint8_t *descriptor = a->base + a->descriptors + (number & 7) * a->stride;
        memcpy(cut, descriptor, 40);
        memcpy(&cut->head, descriptor + 64 + 32 * r->ordinal, 24);
        if (open_bars) memcpy(open_bars, descriptor + a->open_offset, (size_t)a->open_slots * 96);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (marketd_word(a, 64) - number >= 7) continue; /* A3 descriptor-reuse */
        int64_t head = cut->head, start = head > count ? head - count : 0;
        marketd_copy(a, r, r->offset, start, head, records);
        int64_t ready = marketd_word(a, r->live + 16);           /* A5 images-before-rewrite */
        int64_t oldest = marketd_word(a, r->live) - r->slots;    /* A1 intent-before-slots */
        if (ready > number + 1) continue;
        if (ready == number + 1) {
            int64_t low = marketd_word(a, r->live + 24), high = marketd_word(a, r->live + 32);
            low = low > start ? low : start;
            high = high < head ? high : head;
            if (low < high) marketd_copy(a, r, r->images, low, high, records + (low - start) * r->itemsize);
            if (marketd_word(a, r->live + 8) != number + 1) continue; /* A4 begin-before-images */
        }
        if (oldest <= start || head == start) return head - start;
        if (marketd_word(a, 64) != number || oldest >= head) continue; /* overtaken: read a newer one */
        memmove(records, records + (oldest - start) * r->itemsize, (size_t)((head - oldest) * r->itemsize));
        return head - oldest;
    }
    return MARKETD_CONTENDED;
}

#endif
