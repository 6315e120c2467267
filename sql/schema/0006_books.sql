-- What order books leave behind, without what differs between the profiles. As in 0002: order and width of the columns
-- are the contract with the row codecs, everything is NOT NULL, an absent number is its type's minimum.

CREATE TABLE book_snapshots (
    instrument_id int         NOT NULL,
    ts_event      timestamptz NOT NULL,
    ts_known      timestamptz NOT NULL,
    seq           bigint      NOT NULL,
    sequence      bigint      NOT NULL,
    bid_count     smallint    NOT NULL,
    ask_count     smallint    NOT NULL,
    state         smallint    NOT NULL,
    flags         smallint    NOT NULL,
    bid_price     bigint[]    NOT NULL,
    bid_size      bigint[]    NOT NULL,
    ask_price     bigint[]    NOT NULL,
    ask_size      bigint[]    NOT NULL
);
COMMENT ON COLUMN book_snapshots.instrument_id IS 'See instruments.';
COMMENT ON COLUMN book_snapshots.ts_event      IS 'The venue''s time of this state of the book.';
COMMENT ON COLUMN book_snapshots.ts_known      IS 'When marketd knew it.';
COMMENT ON COLUMN book_snapshots.seq           IS 'Sequence number in the instrument; the order of knowledge.';
COMMENT ON COLUMN book_snapshots.sequence      IS 'The venue''s number of this state; absent where it numbers nothing.';
COMMENT ON COLUMN book_snapshots.bid_count     IS 'Bid levels that are there.';
COMMENT ON COLUMN book_snapshots.ask_count     IS 'Ask levels that are there.';
COMMENT ON COLUMN book_snapshots.state         IS '0 empty, 1 syncing, 2 live, 3 stale; only a live book has levels.';
COMMENT ON COLUMN book_snapshots.flags         IS '1 the best price jumped, 2 the state changed.';
COMMENT ON COLUMN book_snapshots.bid_price     IS 'At price_scale, the best first; levels that are not there are absent.';
COMMENT ON COLUMN book_snapshots.bid_size      IS 'What rests at each, at size_scale.';
COMMENT ON COLUMN book_snapshots.ask_price     IS 'At price_scale, the best first; levels that are not there are absent.';
COMMENT ON COLUMN book_snapshots.ask_size      IS 'What rests at each, at size_scale.';

CREATE TABLE book_deltas (
    instrument_id int         NOT NULL,
    ts_event      timestamptz NOT NULL,
    ts_known      timestamptz NOT NULL,
    seq           bigint      NOT NULL,
    sequence      bigint      NOT NULL,
    price         bigint      NOT NULL,
    size          bigint      NOT NULL,
    side          int         NOT NULL,
    flags         int         NOT NULL
);
COMMENT ON COLUMN book_deltas.instrument_id IS 'See instruments.';
COMMENT ON COLUMN book_deltas.ts_event      IS 'The venue''s time of the change.';
COMMENT ON COLUMN book_deltas.ts_known      IS 'When marketd knew it.';
COMMENT ON COLUMN book_deltas.seq           IS 'Sequence number in the instrument; changes apply in this order.';
COMMENT ON COLUMN book_deltas.sequence      IS 'The venue''s number of the state after the change; absent where it numbers nothing.';
COMMENT ON COLUMN book_deltas.price         IS 'The level, at price_scale.';
COMMENT ON COLUMN book_deltas.size          IS 'What rests there now, at size_scale; 0: the level is gone.';
COMMENT ON COLUMN book_deltas.side          IS '+1 bid, -1 ask.';
COMMENT ON COLUMN book_deltas.flags         IS '1 of a snapshot: the book begins anew with its first row, 2 the book left live here: no level.';

CREATE TABLE book_venues (
    instrument_id int         NOT NULL,
    ts_event      timestamptz NOT NULL,
    ts_known      timestamptz NOT NULL,
    seq           bigint      NOT NULL,
    bid_venue     bigint[]    NOT NULL,
    ask_venue     bigint[]    NOT NULL
);
COMMENT ON COLUMN book_venues.instrument_id IS 'See instruments; a consolidated one (venue COB).';
COMMENT ON COLUMN book_venues.ts_event      IS 'As of the book beside it.';
COMMENT ON COLUMN book_venues.ts_known      IS 'As of the book beside it.';
COMMENT ON COLUMN book_venues.seq           IS 'Sequence number in the instrument: one more than that of the book.';
COMMENT ON COLUMN book_venues.bid_venue     IS 'Of each level, the best first: the instrument_id whose it is.';
COMMENT ON COLUMN book_venues.ask_venue     IS 'Of each level, the best first: the instrument_id whose it is.';

CREATE TABLE imbalances (
    instrument_id int         NOT NULL,
    ts_event      timestamptz NOT NULL,
    ts_known      timestamptz NOT NULL,
    seq           bigint      NOT NULL,
    mid2          bigint      NOT NULL,
    spread        bigint      NOT NULL,
    bid_size      bigint      NOT NULL,
    ask_size      bigint      NOT NULL,
    best_bid_size bigint      NOT NULL,
    best_ask_size bigint      NOT NULL,
    book_1s       int         NOT NULL,
    book_5s       int         NOT NULL,
    book_15s      int         NOT NULL,
    book_60s      int         NOT NULL,
    volume_1s     int         NOT NULL,
    volume_5s     int         NOT NULL,
    volume_15s    int         NOT NULL,
    volume_60s    int         NOT NULL,
    state         int         NOT NULL,
    reason        int         NOT NULL
);
COMMENT ON COLUMN imbalances.instrument_id IS 'See instruments.';
COMMENT ON COLUMN imbalances.ts_event      IS 'End of the second.';
COMMENT ON COLUMN imbalances.ts_known      IS 'When marketd knew this version.';
COMMENT ON COLUMN imbalances.seq           IS 'Sequence number in the instrument; of a second, the version: the greatest counts.';
COMMENT ON COLUMN imbalances.mid2          IS 'Best bid + best ask, twice the mid, at price_scale.';
COMMENT ON COLUMN imbalances.spread        IS 'Best ask - best bid, at price_scale.';
COMMENT ON COLUMN imbalances.bid_size      IS 'What rests within the band below the mid, at size_scale.';
COMMENT ON COLUMN imbalances.ask_size      IS 'What rests within the band above the mid, at size_scale.';
COMMENT ON COLUMN imbalances.best_bid_size IS 'What rests at the best bid, at size_scale.';
COMMENT ON COLUMN imbalances.best_ask_size IS 'What rests at the best ask, at size_scale.';
COMMENT ON COLUMN imbalances.book_1s       IS 'Imbalance of the resting sizes, mean of the last second, in 1e-6.';
COMMENT ON COLUMN imbalances.book_5s       IS 'The same, mean of the last 5 s.';
COMMENT ON COLUMN imbalances.book_15s      IS 'The same, mean of the last 15 s.';
COMMENT ON COLUMN imbalances.book_60s      IS 'The same, mean of the last minute.';
COMMENT ON COLUMN imbalances.volume_1s     IS 'Imbalance of what buyers and sellers took in the last second, in 1e-6.';
COMMENT ON COLUMN imbalances.volume_5s     IS 'The same, in the last 5 s.';
COMMENT ON COLUMN imbalances.volume_15s    IS 'The same, in the last 15 s.';
COMMENT ON COLUMN imbalances.volume_60s    IS 'The same, in the last minute.';
COMMENT ON COLUMN imbalances.state         IS 'The book''s: 0 empty, 1 syncing, 2 live, 3 stale.';
COMMENT ON COLUMN imbalances.reason        IS 'Why numbers are absent: 0 none is, 1 book not live, 2 no levels within the band, 3 a window is not full yet.';

CREATE TABLE book_buckets (
    instrument_id int         NOT NULL,
    ts            timestamptz NOT NULL,
    ts_known      timestamptz NOT NULL,
    seq           bigint      NOT NULL,
    width         bigint      NOT NULL,
    base          bigint      NOT NULL,
    timeframe     int         NOT NULL,
    state         smallint    NOT NULL,
    flags         smallint    NOT NULL,
    bid_size      bigint[]    NOT NULL,
    ask_size      bigint[]    NOT NULL
);
COMMENT ON COLUMN book_buckets.instrument_id IS 'See instruments.';
COMMENT ON COLUMN book_buckets.ts            IS 'Start; the row covers timeframe seconds from here, its end exclusive.';
COMMENT ON COLUMN book_buckets.ts_known      IS 'When marketd knew this version.';
COMMENT ON COLUMN book_buckets.seq           IS 'Sequence number in the instrument; of an interval, the version: the greatest counts.';
COMMENT ON COLUMN book_buckets.width         IS 'Price of a bucket from end to end, at price_scale: bucket k has [k * width, (k + 1) * width).';
COMMENT ON COLUMN book_buckets.base          IS 'Number of the bucket of the last mid.';
COMMENT ON COLUMN book_buckets.timeframe     IS '1 or 60 seconds.';
COMMENT ON COLUMN book_buckets.state         IS 'The book''s at the end: 0 empty, 1 syncing, 2 live, 3 stale.';
COMMENT ON COLUMN book_buckets.flags         IS 'None yet: 0.';
COMMENT ON COLUMN book_buckets.bid_size      IS 'Time-weighted mean of what rested in the buckets base, base - 1, …, at size_scale.';
COMMENT ON COLUMN book_buckets.ask_size      IS 'Time-weighted mean of what rested in the buckets base, base + 1, …, at size_scale.';

INSERT INTO partitioned_tables (table_name, time_column, width) VALUES
    ('book_snapshots', 'ts_event', '1 day'),
    ('book_deltas',    'ts_event', '1 day'),
    ('book_venues',    'ts_event', '1 day'),
    ('imbalances',     'ts_event', '7 days'),
    ('book_buckets',   'ts',       '7 days');
