-- marketd: profile=timescale
-- Bars of a minute and longer, made of our own bars of a second and of each other: for timeframes of which no bar is stored.
-- They are real time: what is not summed up yet is summed up when it is read. Policies (sql/policies.py) sum up what comes in
-- order, the storage actor (daemon/level_keeper.py) what comes late. The numbers are those of market/aggregate.py.

CREATE FUNCTION total(summed numeric, smallest bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN smallest <> -9223372036854775808 AND summed BETWEEN -9223372036854775807 AND 9223372036854775807
            THEN summed::bigint ELSE -9223372036854775808 END;
COMMENT ON FUNCTION total IS 'A sum of fixed-point numbers, absent where one of them is, or where it leaves 64 bits: no job may fail for it.';

CREATE MATERIALIZED VIEW own_candles_1m WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT instrument_id, time_bucket('1 minute', ts) AS ts, max(ts_known) AS ts_known, max(seq) AS seq,
       first(open, ts) AS open, max(high) AS high, min(low) AS low, last(close, ts) AS close,
       total(sum(volume), min(volume)) AS volume, total(sum(quote_volume), min(quote_volume)) AS quote_volume,
       total(sum(buy_volume), min(buy_volume)) AS buy_volume, total(sum(trade_count), min(trade_count)) AS trade_count,
       bit_or(flags & 19::smallint) AS flags
FROM candles_1s
WHERE source = 1
GROUP BY instrument_id, time_bucket('1 minute', ts)
WITH NO DATA;

CREATE MATERIALIZED VIEW own_candles_5m WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT instrument_id, time_bucket('5 minutes', ts) AS ts, max(ts_known) AS ts_known, max(seq) AS seq,
       first(open, ts) AS open, max(high) AS high, min(low) AS low, last(close, ts) AS close,
       total(sum(volume), min(volume)) AS volume, total(sum(quote_volume), min(quote_volume)) AS quote_volume,
       total(sum(buy_volume), min(buy_volume)) AS buy_volume, total(sum(trade_count), min(trade_count)) AS trade_count,
       bit_or(flags) AS flags
FROM own_candles_1m
GROUP BY instrument_id, time_bucket('5 minutes', ts)
WITH NO DATA;

CREATE MATERIALIZED VIEW own_candles_15m WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT instrument_id, time_bucket('15 minutes', ts) AS ts, max(ts_known) AS ts_known, max(seq) AS seq,
       first(open, ts) AS open, max(high) AS high, min(low) AS low, last(close, ts) AS close,
       total(sum(volume), min(volume)) AS volume, total(sum(quote_volume), min(quote_volume)) AS quote_volume,
       total(sum(buy_volume), min(buy_volume)) AS buy_volume, total(sum(trade_count), min(trade_count)) AS trade_count,
       bit_or(flags) AS flags
FROM own_candles_5m
GROUP BY instrument_id, time_bucket('15 minutes', ts)
WITH NO DATA;

CREATE MATERIALIZED VIEW own_candles_1h WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT instrument_id, time_bucket('1 hour', ts) AS ts, max(ts_known) AS ts_known, max(seq) AS seq,
       first(open, ts) AS open, max(high) AS high, min(low) AS low, last(close, ts) AS close,
       total(sum(volume), min(volume)) AS volume, total(sum(quote_volume), min(quote_volume)) AS quote_volume,
       total(sum(buy_volume), min(buy_volume)) AS buy_volume, total(sum(trade_count), min(trade_count)) AS trade_count,
       bit_or(flags) AS flags
FROM own_candles_15m
GROUP BY instrument_id, time_bucket('1 hour', ts)
WITH NO DATA;

CREATE MATERIALIZED VIEW own_candles_4h WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT instrument_id, time_bucket('4 hours', ts) AS ts, max(ts_known) AS ts_known, max(seq) AS seq,
       first(open, ts) AS open, max(high) AS high, min(low) AS low, last(close, ts) AS close,
       total(sum(volume), min(volume)) AS volume, total(sum(quote_volume), min(quote_volume)) AS quote_volume,
       total(sum(buy_volume), min(buy_volume)) AS buy_volume, total(sum(trade_count), min(trade_count)) AS trade_count,
       bit_or(flags) AS flags
FROM own_candles_1h
GROUP BY instrument_id, time_bucket('4 hours', ts)
WITH NO DATA;

CREATE MATERIALIZED VIEW own_candles_1d WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT instrument_id, time_bucket('1 day', ts) AS ts, max(ts_known) AS ts_known, max(seq) AS seq,
       first(open, ts) AS open, max(high) AS high, min(low) AS low, last(close, ts) AS close,
       total(sum(volume), min(volume)) AS volume, total(sum(quote_volume), min(quote_volume)) AS quote_volume,
       total(sum(buy_volume), min(buy_volume)) AS buy_volume, total(sum(trade_count), min(trade_count)) AS trade_count,
       bit_or(flags) AS flags
FROM own_candles_4h
GROUP BY instrument_id, time_bucket('1 day', ts)
WITH NO DATA;
COMMENT ON VIEW own_candles_1m IS 'Bars of a minute, made of own bars of a second; as candles, at the instrument''s scales.';
COMMENT ON VIEW own_candles_5m IS 'Bars of 5 minutes, made of own bars of a second; as candles, at the instrument''s scales.';
COMMENT ON VIEW own_candles_15m IS 'Bars of 15 minutes, made of own bars of a second; as candles, at the instrument''s scales.';
COMMENT ON VIEW own_candles_1h IS 'Bars of an hour, made of own bars of a second; as candles, at the instrument''s scales.';
COMMENT ON VIEW own_candles_4h IS 'Bars of 4 hours, made of own bars of a second; as candles, at the instrument''s scales.';
COMMENT ON VIEW own_candles_1d IS 'Bars of a day, made of own bars of a second; as candles, at the instrument''s scales.';

-- Their columns mean what those of candles do.
DO $$
DECLARE
    level text;
    field record;
BEGIN
    FOREACH level IN ARRAY ARRAY['1m', '5m', '15m', '1h', '4h', '1d'] LOOP
        FOR field IN SELECT attname, col_description(attrelid, attnum) AS meaning FROM pg_attribute
                     WHERE attrelid = 'candles'::regclass AND attnum > 0
                       AND attname NOT IN ('timeframe', 'source', 'seq', 'ts_known') LOOP
            EXECUTE format('COMMENT ON COLUMN own_candles_%s.%I IS %L', level, field.attname, field.meaning);
        END LOOP;
        EXECUTE format('COMMENT ON COLUMN own_candles_%s.ts_known IS %L', level, 'When marketd knew the newest of its parts.');
        EXECUTE format('COMMENT ON COLUMN own_candles_%s.seq IS %L', level, 'The greatest sequence number of its parts.');
    END LOOP;
END
$$;

-- Most seconds have no bar but our own: whether a stretch has others must not cost a look at all of them.
CREATE INDEX candles_1s_foreign ON candles_1s (instrument_id, ts DESC) WHERE source <> 1;

CREATE TABLE refresh_due (
    id       bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ts_start timestamptz NOT NULL,
    ts_end   timestamptz NOT NULL
);
COMMENT ON TABLE  refresh_due          IS 'Stretches of late bars of a second, noted with them: longer bars (own_candles_…) do not have them yet, and are not asked there.';
COMMENT ON COLUMN refresh_due.id       IS 'Number of the note.';
COMMENT ON COLUMN refresh_due.ts_start IS 'Start.';
COMMENT ON COLUMN refresh_due.ts_end   IS 'End, exclusive.';

CREATE TABLE levels_kept (
    ts_start timestamptz NOT NULL,
    ts_end   timestamptz NOT NULL,
    PRIMARY KEY (ts_start, ts_end)
);
COMMENT ON TABLE  levels_kept          IS 'Stretches whose bars of a second were dropped for their age: longer bars stay as they were, and are never made anew.';
COMMENT ON COLUMN levels_kept.ts_start IS 'Start.';
COMMENT ON COLUMN levels_kept.ts_end   IS 'End, exclusive.';

-- What is there already is late.
INSERT INTO refresh_due (ts_start, ts_end)
SELECT min(ts), max(ts) + interval '1 second' FROM candles_1s HAVING count(*) > 0;
