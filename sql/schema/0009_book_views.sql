-- As 0005: real numbers, NULL where absent. Of versions the newest; instruments come first, so that a bound of symbol and
-- time is used inside.

CREATE FUNCTION reals(numbers bigint[], scale smallint) RETURNS float8[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (SELECT array_agg(nullif(number, -9223372036854775808)::float8 / 10::float8 ^ scale ORDER BY place)
        FROM unnest(numbers) WITH ORDINALITY AS levels (number, place));
COMMENT ON FUNCTION reals IS 'Fixed-point numbers as real ones, NULL where absent.';

CREATE VIEW v_book_snapshots AS
SELECT b.instrument_id, i.venue, i.symbol, i.base, i.quote,
       b.ts_event, b.ts_known, b.seq, nullif(b.sequence, -9223372036854775808) AS sequence, b.state, b.flags,
       n.bid / 10::float8 ^ i.price_scale                  AS best_bid,
       n.ask / 10::float8 ^ i.price_scale                  AS best_ask,
       (n.bid + n.ask) / 2 / 10::float8 ^ i.price_scale    AS mid,
       (n.ask - n.bid) / 10::float8 ^ i.price_scale        AS spread,
       b.bid_count, b.ask_count,
       reals(b.bid_price[1:b.bid_count], i.price_scale)    AS bid_price,
       reals(b.bid_size[1:b.bid_count], i.size_scale)      AS bid_size,
       reals(b.ask_price[1:b.ask_count], i.price_scale)    AS ask_price,
       reals(b.ask_size[1:b.ask_count], i.size_scale)      AS ask_size
FROM book_snapshots b
JOIN instruments i USING (instrument_id)
CROSS JOIN LATERAL (
    SELECT nullif(b.bid_price[1], -9223372036854775808)::float8 AS bid,
           nullif(b.ask_price[1], -9223372036854775808)::float8 AS ask
) n;

CREATE VIEW v_book_deltas AS
SELECT d.instrument_id, i.venue, i.symbol, i.base, i.quote,
       d.ts_event, d.ts_known, d.seq, nullif(d.sequence, -9223372036854775808) AS sequence,
       nullif(d.price, -9223372036854775808)::float8 / 10::float8 ^ i.price_scale AS price,
       nullif(d.size,  -9223372036854775808)::float8 / 10::float8 ^ i.size_scale  AS size,
       nullif(d.side, -2147483648) AS side, d.flags
FROM book_deltas d
JOIN instruments i USING (instrument_id);

CREATE VIEW v_imbalances AS
SELECT i.instrument_id, i.venue, i.symbol, i.base, i.quote,
       b.ts_event, b.ts_known, b.seq, b.state, b.reason,
       n.mid2 / 2 / 10::float8 ^ i.price_scale AS mid,
       n.spread / 10::float8 ^ i.price_scale   AS spread,
       -- the mid moved towards the side on which less rests
       (n.mid2 + n.spread * (n.best_bid_size - n.best_ask_size) / nullif(n.best_bid_size + n.best_ask_size, 0))
           / 2 / 10::float8 ^ i.price_scale    AS weighted_mid,
       n.bid_size / 10::float8 ^ i.size_scale      AS bid_size,
       n.ask_size / 10::float8 ^ i.size_scale      AS ask_size,
       n.best_bid_size / 10::float8 ^ i.size_scale AS best_bid_size,
       n.best_ask_size / 10::float8 ^ i.size_scale AS best_ask_size,
       nullif(b.book_1s,    -2147483648) / 1e6::float8 AS book_1s,
       nullif(b.book_5s,    -2147483648) / 1e6::float8 AS book_5s,
       nullif(b.book_15s,   -2147483648) / 1e6::float8 AS book_15s,
       nullif(b.book_60s,   -2147483648) / 1e6::float8 AS book_60s,
       nullif(b.volume_1s,  -2147483648) / 1e6::float8 AS volume_1s,
       nullif(b.volume_5s,  -2147483648) / 1e6::float8 AS volume_5s,
       nullif(b.volume_15s, -2147483648) / 1e6::float8 AS volume_15s,
       nullif(b.volume_60s, -2147483648) / 1e6::float8 AS volume_60s
FROM instruments i
CROSS JOIN LATERAL (
    SELECT DISTINCT ON (ts_event) * FROM imbalances
    WHERE instrument_id = i.instrument_id
    ORDER BY ts_event DESC, seq DESC
) b
CROSS JOIN LATERAL (
    SELECT nullif(b.mid2,          -9223372036854775808)::float8 AS mid2,
           nullif(b.spread,        -9223372036854775808)::float8 AS spread,
           nullif(b.bid_size,      -9223372036854775808)::float8 AS bid_size,
           nullif(b.ask_size,      -9223372036854775808)::float8 AS ask_size,
           nullif(b.best_bid_size, -9223372036854775808)::float8 AS best_bid_size,
           nullif(b.best_ask_size, -9223372036854775808)::float8 AS best_ask_size
) n;

CREATE VIEW v_book_buckets AS
SELECT i.instrument_id, i.venue, i.symbol, i.base, i.quote,
       b.timeframe, b.ts, b.ts_known, b.seq, b.state, b.flags,
       nullif(b.width, -9223372036854775808)::float8 / 10::float8 ^ i.price_scale AS width,
       -- the price at which the bucket of the mid begins
       nullif(b.base, -9223372036854775808)::float8 * b.width / 10::float8 ^ i.price_scale AS base_price,
       reals(b.bid_size, i.size_scale) AS bid_size,
       reals(b.ask_size, i.size_scale) AS ask_size
FROM instruments i
CROSS JOIN LATERAL (
    SELECT DISTINCT ON (timeframe, ts) * FROM book_buckets
    WHERE instrument_id = i.instrument_id
    ORDER BY timeframe, ts DESC, seq DESC
) b;

COMMENT ON VIEW v_book_snapshots IS 'book_snapshots in real numbers, with best prices, mid and spread. Bound ts_event in every query.';
COMMENT ON VIEW v_book_deltas    IS 'book_deltas in real numbers, with the instrument''s names. Bound ts_event in every query.';
COMMENT ON VIEW v_imbalances     IS 'imbalances in real numbers, each second in its newest version. Bound ts_event in every query.';
COMMENT ON VIEW v_book_buckets   IS 'book_buckets in real numbers, each interval in its newest version. Bound timeframe and ts in every query.';
