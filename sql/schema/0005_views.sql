-- For people and dashboards: real numbers, NULL where a number is absent (the bigint minimum). Division of two exact
-- doubles is rounded once, so that below 2^53 the result is the double nearest to the venue's decimal text.

CREATE VIEW v_trades AS
SELECT t.instrument_id, i.venue, i.symbol, i.base, i.quote,
       t.ts_event, t.ts_known, t.seq, t.trade_id,
       nullif(t.price, -9223372036854775808)::float8 / 10::float8 ^ i.price_scale AS price,
       nullif(t.size,  -9223372036854775808)::float8 / 10::float8 ^ i.size_scale  AS size,
       t.side, t.flags
FROM trades t
JOIN instruments i USING (instrument_id);

CREATE VIEW v_candles AS
SELECT c.instrument_id, i.venue, i.symbol, i.base, i.quote,
       c.timeframe, c.ts, c.ts_known, c.seq, c.source,
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
    SELECT instrument_id, 1 AS timeframe, ts, ts_known, seq, source, open, high, low, close, volume, quote_volume,
           buy_volume, trade_count, flags
    FROM candles_1s
    UNION ALL
    SELECT instrument_id, timeframe, ts, ts_known, seq, source, open, high, low, close, volume, quote_volume,
           buy_volume, trade_count, flags
    FROM candles
) c
JOIN instruments i USING (instrument_id);

COMMENT ON VIEW v_trades  IS 'trades in real numbers, with the instrument''s names. Bound ts_event in every query.';
COMMENT ON VIEW v_candles IS 'Bars of all timeframes in real numbers, with the instrument''s names. Bound ts in every query.';
