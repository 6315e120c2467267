-- Statements of the query actor about order books. $1 instrument, $2 start (inclusive), $3 end (exclusive), $4 limit,
-- $5 the moment that is asked for.

-- name: versions_newest
-- Of each moment the newest version that was known; of buckets $6 is the timeframe.
SELECT {columns} FROM (
    SELECT DISTINCT ON ({time}) * FROM {table}
    WHERE instrument_id = $1 {and_timeframe} AND {time} >= $2 AND {time} < $3 AND ts_known <= $5
    ORDER BY {time} DESC, seq DESC
) known
ORDER BY {time} DESC LIMIT $4;

-- name: versions_oldest
SELECT {columns} FROM (
    SELECT DISTINCT ON ({time}) * FROM {table}
    WHERE instrument_id = $1 {and_timeframe} AND {time} >= $2 AND {time} < $3 AND ts_known <= $5
    ORDER BY {time}, seq DESC
) known
ORDER BY {time} LIMIT $4;

-- name: book_means
-- Intervals of $6 seconds that have a LIVE snapshot: the last one, and how many have both sides, with the sums of
-- bid + ask, ask - bid, and the sizes at the best prices. market/book_means.py computes the same.
SELECT {columns}
FROM (
    SELECT date_bin(make_interval(secs => $6), ts_event, '1970-01-01 00:00:00+00') AS ts,
           count(*) FILTER (WHERE bid_count > 0 AND ask_count > 0)::int AS count,
           sum(bid_price[1]) FILTER (WHERE bid_count > 0 AND ask_count > 0) AS bids,
           sum(ask_price[1]) FILTER (WHERE bid_count > 0 AND ask_count > 0) AS asks,
           sum(bid_size[1]) FILTER (WHERE bid_count > 0 AND ask_count > 0) AS bid_sizes,
           sum(ask_size[1]) FILTER (WHERE bid_count > 0 AND ask_count > 0) AS ask_sizes
    FROM book_snapshots
    WHERE instrument_id = $1 AND ts_event >= $2 AND ts_event < $3 AND ts_known <= $5 AND state = 2
    GROUP BY 1
    ORDER BY 1 {direction} LIMIT $4
) means
CROSS JOIN LATERAL (
    SELECT * FROM book_snapshots
    WHERE instrument_id = $1 AND ts_event >= $2 AND ts_event < $3 AND ts_known <= $5 AND state = 2
      AND ts_event >= means.ts AND ts_event < means.ts + make_interval(secs => $6)
    ORDER BY ts_event DESC, seq DESC LIMIT 1
) book
ORDER BY means.ts {direction};

-- name: newest_live
-- Where the newest LIVE snapshot is.
SELECT ts_event FROM book_snapshots
WHERE instrument_id = $1 AND ts_event >= $2 AND ts_event < $3 AND ts_known <= $4 AND state = 2
ORDER BY ts_event DESC, seq DESC LIMIT 1;

-- name: oldest_live
SELECT ts_event FROM book_snapshots
WHERE instrument_id = $1 AND ts_event >= $2 AND ts_event < $3 AND ts_known <= $4 AND state = 2
ORDER BY ts_event, seq LIMIT 1;

-- name: snapshots_between
-- Which snapshots lie in the table, where others are packed: $2 the first time, $3 the last one.
SELECT ts_event, seq FROM book_snapshots WHERE instrument_id = $1 AND ts_event >= $2 AND ts_event <= $3;
