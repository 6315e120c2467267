-- marketd: profile=timescale
-- The longer bars that TimescaleDB makes, for people and dashboards: as v_candles shows those that were stored.

CREATE VIEW v_own_candles AS
SELECT c.instrument_id, i.venue, i.symbol, i.base, i.quote,
       c.timeframe, c.ts, c.ts_known, c.seq,
       nullif(c.open,         -9223372036854775808)::float8 / 10::float8 ^ i.price_scale AS open,
       nullif(c.high,         -9223372036854775808)::float8 / 10::float8 ^ i.price_scale AS high,
       nullif(c.low,          -9223372036854775808)::float8 / 10::float8 ^ i.price_scale AS low,
       nullif(c.close,        -9223372036854775808)::float8 / 10::float8 ^ i.price_scale AS close,
       nullif(c.volume,       -9223372036854775808)::float8 / 10::float8 ^ i.size_scale  AS volume,
       nullif(c.quote_volume, -9223372036854775808)::float8 / 10::float8 ^ i.quote_scale AS quote_volume,
       nullif(c.buy_volume,   -9223372036854775808)::float8 / 10::float8 ^ i.size_scale  AS buy_volume,
       nullif(c.trade_count,  -9223372036854775808)                                      AS trade_count,
       c.flags
FROM (
    SELECT 60 AS timeframe, * FROM own_candles_1m
    UNION ALL SELECT 300, * FROM own_candles_5m
    UNION ALL SELECT 900, * FROM own_candles_15m
    UNION ALL SELECT 3600, * FROM own_candles_1h
    UNION ALL SELECT 14400, * FROM own_candles_4h
    UNION ALL SELECT 86400, * FROM own_candles_1d
) c
JOIN instruments i USING (instrument_id);

COMMENT ON VIEW v_own_candles IS 'Bars of 1m 5m 15m 1h 4h 1d, made of own bars of a second, in real numbers. Name the timeframe and bound ts in every query.';

-- Its columns mean what those of v_candles do.
DO $$
DECLARE
    field record;
BEGIN
    FOR field IN
        SELECT mine.attname, col_description(theirs.attrelid, theirs.attnum) AS meaning
        FROM pg_attribute mine
        JOIN pg_attribute theirs ON theirs.attrelid = 'v_candles'::regclass AND theirs.attname = mine.attname
        WHERE mine.attrelid = 'v_own_candles'::regclass AND mine.attnum > 0
    LOOP
        EXECUTE format('COMMENT ON COLUMN v_own_candles.%I IS %L', field.attname, field.meaning);
    END LOOP;
    COMMENT ON COLUMN v_own_candles.ts_known IS 'When marketd knew the newest of its parts.';
    COMMENT ON COLUMN v_own_candles.seq IS 'The greatest sequence number of its parts.';
END
$$;
