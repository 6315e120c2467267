"""How much time a piece (chunk, partition) of each table holds, as the schema files made it. Pure.

What a table gets again that `[storage]` does not name any more.
"""

from __future__ import annotations

from datetime import timedelta

WIDTH_OF_OTHERS = timedelta(days=7)  # of declared series
WIDTHS = {
    "trades": timedelta(days=1),
    "candles_1s": timedelta(days=7),
    "candles": timedelta(days=90),
    "candle_versions": timedelta(days=90),
    "book_snapshots": timedelta(days=1),
    "book_deltas": timedelta(days=1),
    "book_venues": timedelta(days=1),
    "imbalances": timedelta(days=7),
    "book_buckets": timedelta(days=7),
    "activity_bars": timedelta(days=7),
}
