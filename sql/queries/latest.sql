-- The newest of many instruments in one statement. $1 instrument ids, $2 start (inclusive), $3 end (exclusive).

-- name: latest_bars
-- Of each instrument the newest rows of a timeframe: one bar may have a row for each source. $4 how many; $5 the timeframe,
-- which candles_1s has no column for.
SELECT {columns} FROM unnest($1::int[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT * FROM {table}
    WHERE instrument_id = wanted.id {and_timeframe} AND ts >= $2 AND ts < $3
    ORDER BY ts DESC LIMIT $4
) newest;
