-- The large tables, without what differs between the profiles. Order and width of the columns are the contract with
-- the row codecs (market/rows.py). Everything is NOT NULL, so that binary rows have a fixed layout; an absent number
-- is the bigint minimum.

CREATE TABLE trades (
    instrument_id int         NOT NULL,
    ts_event      timestamptz NOT NULL,
    ts_known      timestamptz NOT NULL,
    seq           bigint      NOT NULL,
    trade_id      bigint      NOT NULL,
    price         bigint      NOT NULL,
    size          bigint      NOT NULL,
    side          int         NOT NULL,
    flags         int         NOT NULL
);
COMMENT ON COLUMN trades.instrument_id IS 'See instruments.';
COMMENT ON COLUMN trades.ts_event      IS 'The venue''s time of the trade.';
COMMENT ON COLUMN trades.ts_known      IS 'When marketd knew it.';
COMMENT ON COLUMN trades.seq           IS 'Sequence number in the instrument; the order of knowledge.';
COMMENT ON COLUMN trades.trade_id      IS 'The venue''s id, or a 64-bit hash of it (flag 1).';
COMMENT ON COLUMN trades.price         IS 'At price_scale.';
COMMENT ON COLUMN trades.size          IS 'At size_scale.';
COMMENT ON COLUMN trades.side          IS 'The aggressor: +1 buy, -1 sell, 0 unknown.';
COMMENT ON COLUMN trades.flags         IS '1 hashed id, 2 aggregate trade, 8 no market trade, 16 snapped to the grid.';

CREATE TABLE candles_1s (
    instrument_id int         NOT NULL,
    ts            timestamptz NOT NULL,
    ts_known      timestamptz NOT NULL,
    seq           bigint      NOT NULL,
    source        smallint    NOT NULL,
    open          bigint      NOT NULL,
    high          bigint      NOT NULL,
    low           bigint      NOT NULL,
    close         bigint      NOT NULL,
    volume        bigint      NOT NULL,
    quote_volume  bigint      NOT NULL,
    buy_volume    bigint      NOT NULL,
    trade_count   bigint      NOT NULL,
    flags         smallint    NOT NULL
);
COMMENT ON COLUMN candles_1s.instrument_id IS 'See instruments.';
COMMENT ON COLUMN candles_1s.ts            IS 'Open time; the bar covers one second from here, its end exclusive.';
COMMENT ON COLUMN candles_1s.ts_known      IS 'When marketd knew this version of the bar.';
COMMENT ON COLUMN candles_1s.seq           IS 'Sequence number in the instrument; of a bar, the version.';
COMMENT ON COLUMN candles_1s.source        IS '1 own (made from trades), 2 the venue''s, 3 imported; sources never revise each other.';
COMMENT ON COLUMN candles_1s.open          IS 'First price, at price_scale.';
COMMENT ON COLUMN candles_1s.high          IS 'Highest price, at price_scale.';
COMMENT ON COLUMN candles_1s.low           IS 'Lowest price, at price_scale.';
COMMENT ON COLUMN candles_1s.close         IS 'Last price, at price_scale.';
COMMENT ON COLUMN candles_1s.volume        IS 'Sum of sizes, at size_scale.';
COMMENT ON COLUMN candles_1s.quote_volume  IS 'Sum of floor(price * size), at quote_scale.';
COMMENT ON COLUMN candles_1s.buy_volume    IS 'Sum of the sizes that buyers took, at size_scale.';
COMMENT ON COLUMN candles_1s.trade_count   IS 'Number of trades.';
COMMENT ON COLUMN candles_1s.flags         IS '1 not observed throughout, 2 ts_known reconstructed, 4 replaces an earlier version, 16 snapped to the grid.';

CREATE TABLE candles (
    instrument_id int         NOT NULL,
    timeframe     int         NOT NULL,
    ts            timestamptz NOT NULL,
    ts_known      timestamptz NOT NULL,
    seq           bigint      NOT NULL,
    source        smallint    NOT NULL,
    open          bigint      NOT NULL,
    high          bigint      NOT NULL,
    low           bigint      NOT NULL,
    close         bigint      NOT NULL,
    volume        bigint      NOT NULL,
    quote_volume  bigint      NOT NULL,
    buy_volume    bigint      NOT NULL,
    trade_count   bigint      NOT NULL,
    flags         smallint    NOT NULL
);
COMMENT ON COLUMN candles.instrument_id IS 'See instruments.';
COMMENT ON COLUMN candles.timeframe     IS 'Length of the bar in seconds.';
COMMENT ON COLUMN candles.ts            IS 'Open time; the bar covers timeframe seconds from here, its end exclusive.';
COMMENT ON COLUMN candles.ts_known      IS 'When marketd knew this version of the bar.';
COMMENT ON COLUMN candles.seq           IS 'Sequence number in the instrument; of a bar, the version.';
COMMENT ON COLUMN candles.source        IS '1 own (made from trades), 2 the venue''s, 3 imported; sources never revise each other.';
COMMENT ON COLUMN candles.open          IS 'First price, at price_scale.';
COMMENT ON COLUMN candles.high          IS 'Highest price, at price_scale.';
COMMENT ON COLUMN candles.low           IS 'Lowest price, at price_scale.';
COMMENT ON COLUMN candles.close         IS 'Last price, at price_scale.';
COMMENT ON COLUMN candles.volume        IS 'Sum of sizes, at size_scale.';
COMMENT ON COLUMN candles.quote_volume  IS 'Sum of floor(price * size), at quote_scale.';
COMMENT ON COLUMN candles.buy_volume    IS 'Sum of the sizes that buyers took, at size_scale.';
COMMENT ON COLUMN candles.trade_count   IS 'Number of trades.';
COMMENT ON COLUMN candles.flags         IS '1 not observed throughout, 2 ts_known reconstructed, 4 replaces an earlier version, 16 snapped to the grid.';

CREATE TABLE candle_versions (LIKE candles INCLUDING COMMENTS);

INSERT INTO partitioned_tables (table_name, time_column, width) VALUES
    ('trades',          'ts_event', '1 day'),
    ('candles_1s',      'ts',       '7 days'),
    ('candles',         'ts',       '90 days'),
    ('candle_versions', 'ts',       '90 days');
