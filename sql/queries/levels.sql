-- Longer bars that are made of our own bars of a second (`timescale` profile). `{…}` is filled in from a fixed table of names.

-- name: has_levels
SELECT to_regclass('marketd.refresh_due') IS NOT NULL;

-- name: note_late
-- In the writer's transaction. What is younger than this no refresh has seen yet (REFRESH_LAG in sql/levels.py is longer).
INSERT INTO refresh_due (ts_start, ts_end)
SELECT $1, $2 WHERE $1 < clock_timestamp() - interval '5 minutes';

-- name: due
SELECT id, ts_start, ts_end, now() AS at FROM refresh_due ORDER BY ts_start;

-- name: kept
SELECT ts_start, ts_end FROM levels_kept ORDER BY ts_start;

-- name: done
DELETE FROM refresh_due WHERE id = ANY($1::bigint[]);

-- name: is_due
SELECT EXISTS (SELECT FROM refresh_due WHERE ts_start < $2 AND ts_end > $1);

-- name: keep
INSERT INTO levels_kept (ts_start, ts_end) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: refresh
CALL public.refresh_continuous_aggregate('marketd.{level}', $1::timestamptz, $2::timestamptz);

-- name: oldest_due
-- From when on longer bars may lack some of a span.
SELECT min(greatest(ts_start, $1)) FROM refresh_due WHERE ts_start < $2 AND ts_end > $1;

-- name: newest_second
-- Of what was dropped nothing forms any more.
SELECT greatest(
    (SELECT ts FROM candles_1s
     WHERE instrument_id = $1 AND ts >= $2 AND ts < $3 AND source = 1
     ORDER BY ts DESC LIMIT 1),
    (SELECT max(ts_end) FROM levels_kept WHERE ts_start < $3 AND ts_end > $2));

-- name: has_foreign
SELECT EXISTS (SELECT FROM candles_1s WHERE instrument_id = $1 AND ts >= $2 AND ts < $3 AND source <> 1);

-- name: level_bars
SELECT {columns} FROM {level}
WHERE instrument_id = $1 AND ts >= $2 AND ts < $3
ORDER BY ts DESC LIMIT $4;
