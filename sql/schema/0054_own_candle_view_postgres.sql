-- marketd: profile=postgres
-- Our own longer bars under the name that they have where TimescaleDB makes them, so that a dashboard works on either.
-- Here they are those that were folded and stored (`timeframes`); they are never packed, as bars of a second are.

CREATE VIEW v_own_candles AS
SELECT instrument_id, venue, symbol, base, quote, timeframe, ts, ts_known, seq, open, high, low, close, volume,
       quote_volume, buy_volume, trade_count, flags
FROM v_candles
WHERE source = 1 AND timeframe IN (60, 300, 900, 3600, 14400, 86400);

COMMENT ON VIEW v_own_candles IS 'Own bars of 1m 5m 15m 1h 4h 1d that were stored, in real numbers; of all time, packed or not. Name the timeframe and bound ts in every query.';

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
END
$$;
