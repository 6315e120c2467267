-- seq makes each row one and the same. Versions of a second or interval lie side by side, the newest first: a reader takes
-- the first one that was known, from the same index.

CREATE UNIQUE INDEX book_snapshots_key ON book_snapshots (instrument_id, ts_event DESC, seq DESC);
CREATE UNIQUE INDEX book_deltas_key    ON book_deltas    (instrument_id, ts_event DESC, seq DESC);
CREATE UNIQUE INDEX book_venues_key    ON book_venues    (instrument_id, ts_event DESC, seq DESC);
CREATE UNIQUE INDEX imbalances_key     ON imbalances     (instrument_id, ts_event DESC, seq DESC);
CREATE UNIQUE INDEX book_buckets_key   ON book_buckets   (instrument_id, timeframe, ts DESC, seq DESC);

COMMENT ON TABLE book_snapshots IS 'The best levels of each order book, every book.interval, at jumps and at changes of state.';
COMMENT ON TABLE book_deltas    IS 'Every changed level of the books, with book.deltas = true: any depth at any time can be made from it.';
COMMENT ON TABLE book_venues    IS 'Beside each book of a consolidated instrument: whose its levels are.';
COMMENT ON TABLE imbalances     IS 'Each second: mid, spread, sizes in the band, imbalance of book and volume. All versions; views show the newest.';
COMMENT ON TABLE book_buckets   IS 'Each second and minute: what rested in each price bucket around the mid. All versions; views show the newest.';
