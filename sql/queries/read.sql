-- Statements of the query actor. Each is bound by instrument and time; answers are newest first, so that a limit keeps the newest.
-- $1 instrument, $2 start (inclusive), $3 end (exclusive), $4 limit; as known: $5 the moment.

-- name: committed_known
-- Up to which ts_known the database has a journal. $1 its uuid: other daemons may store theirs in the same database.
SELECT journal, committed_offset, (extract(epoch FROM ts_known)::numeric * 1000000000)::bigint AS ts_known_ns
FROM journal_commits WHERE journal = $1;

-- name: instruments
SELECT instrument_id, symbol, venue, base, quote, market, price_scale, size_scale, quote_scale, tick_size, step_size, flags
FROM instruments ORDER BY instrument_id;

-- name: bars_1s
-- `{order}` is left out where the limit cannot be reached: the columnstore gives ordered rows one by one, others by batches.
SELECT {columns} FROM candles_1s
WHERE instrument_id = $1 AND ts >= $2 AND ts < $3
{order} LIMIT $4;

-- name: bars_1s_of_source
SELECT {columns} FROM candles_1s
WHERE instrument_id = $1 AND ts >= $2 AND ts < $3 AND source = $5
{order} LIMIT $4;

-- name: bars
SELECT {columns} FROM candles
WHERE instrument_id = $1 AND ts >= $2 AND ts < $3 AND timeframe = $5
{order} LIMIT $4;

-- name: bars_of_source
SELECT {columns} FROM candles
WHERE instrument_id = $1 AND ts >= $2 AND ts < $3 AND timeframe = $5 AND source = $6
{order} LIMIT $4;

-- name: bars_as_known
-- The newest version known at $6, of each bar and source; of one source: $7.
SELECT {columns} FROM (
    SELECT DISTINCT ON (ts, source) * FROM (
        SELECT {candles_columns} FROM {table}
        WHERE instrument_id = $1 AND ts >= $2 AND ts < $3 {and_timeframe} AND ts_known <= $6 {and_source}
        UNION ALL
        SELECT {columns} FROM candle_versions
        WHERE instrument_id = $1 AND ts >= $2 AND ts < $3 AND timeframe = $5 AND ts_known <= $6 {and_source}
    ) versions
    ORDER BY ts DESC, source, seq DESC
) known
ORDER BY ts DESC LIMIT $4;

-- name: versions
-- Of bars of timeframe $4 the versions that were replaced, known at $5; of one source: $6.
SELECT {columns} FROM candle_versions
WHERE instrument_id = $1 AND ts >= $2 AND ts < $3 AND timeframe = $4 AND ts_known <= $5 {and_source};

-- name: rows_newest
SELECT {columns} FROM {table}
WHERE instrument_id = $1 AND ts_event >= $2 AND ts_event < $3 AND ts_known <= $5
ORDER BY ts_event DESC, seq DESC LIMIT $4;

-- name: rows_oldest
SELECT {columns} FROM {table}
WHERE instrument_id = $1 AND ts_event >= $2 AND ts_event < $3 AND ts_known <= $5
ORDER BY ts_event, seq LIMIT $4;

-- name: expired
-- What retention dropped is gone whatever was known when; it follows what the ledger held at that moment.
SELECT e.ts_known, e.ts_known, newest.seq, e.stream, 9::smallint, e.ts_start, e.ts_end, 0::bigint, e.of_table
FROM expired e
CROSS JOIN LATERAL (
    SELECT c.seq FROM coverage c WHERE c.instrument_id = $1 AND c.ts_known <= e.ts_known
    ORDER BY c.ts_known DESC, c.seq DESC LIMIT 1
) newest
WHERE e.ts_start < $3 AND e.ts_end >= $2;

-- name: coverage
SELECT * FROM (
    SELECT ts_event, ts_known, seq, stream, state, ts_start, ts_end, detail, reason FROM coverage
    WHERE instrument_id = $1 AND ts_start < $3 AND ts_end >= $2 AND ts_known <= $5
    UNION ALL
    {expired}
) ledger
ORDER BY ts_event {direction}, seq {direction} LIMIT $4;

-- name: line
-- Of the ledger what the line of stream $4 in [$2, $3) is made of: what begins in it, what reaches into it, and of what
-- has no end of its own the last that was said before (all else of that kind lies under it; market/timeline.py).
SELECT ts_event, ts_known, seq, stream, state, ts_start, ts_end, detail, reason FROM coverage
WHERE instrument_id = $1 AND stream IN ($4, 0) AND ts_start >= $2 AND ts_start < $3 AND ts_known <= $5
UNION ALL
SELECT ts_event, ts_known, seq, stream, state, ts_start, ts_end, detail, reason FROM coverage
WHERE instrument_id = $1 AND stream IN ($4, 0) AND ts_end > $2 AND ts_end < 'infinity' AND ts_start < $2 AND ts_known <= $5
UNION ALL
SELECT last.* FROM unnest(ARRAY[$4, 0]::smallint[]) asked (stream)
CROSS JOIN LATERAL (
    SELECT ts_event, ts_known, seq, stream, state, ts_start, ts_end, detail, reason FROM coverage c
    WHERE instrument_id = $1 AND c.stream = asked.stream AND ts_start < $2 AND ts_known <= $5
    AND state NOT IN (6, 7) AND (ts_end = 'infinity' OR (state IN (1, 8) AND ts_end <= ts_start))
    ORDER BY seq DESC, ts_known DESC LIMIT 1
) last
UNION ALL
{expired};

-- name: facts
-- What an answer tells beside its records, in one round trip: how far the journal $6 is stored, beside each row of a
-- line; at least one row.
SELECT stored.*, line.* FROM (SELECT) always
LEFT JOIN (
    SELECT committed_offset, (extract(epoch FROM ts_known)::numeric * 1000000000)::bigint AS ts_known_ns
    FROM journal_commits WHERE journal = $6
) stored ON true
LEFT JOIN ({line}) line ON true;
