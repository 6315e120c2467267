-- Statements of `marketd schema move` (sql/move.py).

-- name: identity
-- What tells one database from another: a copy of a server has the same name and the same beginning, too.
SELECT current_database() || ' of ' || min(applied_at)::text FROM marketd.schema_changes;

-- name: try_alone
-- Of the target's session, until it ends: two moves into one database would write each other's pieces.
SELECT pg_try_advisory_lock(hashtextextended('marketd move', 0));

-- name: daemons
-- Sessions of a daemon; a command line's are none.
SELECT DISTINCT application_name AS name FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND application_name LIKE 'marketd-%' AND application_name NOT IN ('marketd-cli', 'marketd-move', 'marketd-backup')
ORDER BY 1;

-- name: stop_commits
-- No writer commits while this is held: each claims its journal's row first.
LOCK TABLE marketd.journal_commits IN SHARE MODE;

-- name: moved
SELECT table_name, piece_start, piece_end, source, rows, digest FROM marketd.moved_pieces;

-- name: note_moved
INSERT INTO marketd.moved_pieces (table_name, piece_start, piece_end, source, rows, digest)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (table_name, piece_start) DO UPDATE
SET piece_end = EXCLUDED.piece_end, source = EXCLUDED.source, rows = EXCLUDED.rows, digest = EXCLUDED.digest,
    moved_at = now();

-- name: identity_columns
-- Columns that number their rows, with the sequence that does it.
SELECT a.attname AS name, pg_get_serial_sequence(format('marketd.%I', $1::text), a.attname) AS sequence
FROM pg_attribute a
WHERE a.attrelid = format('marketd.%I', $1::text)::regclass AND a.attidentity <> '';

-- name: block_weeks
-- Weeks, counted from 1970, in which packed blocks begin.
SELECT date_bin('7 days', ts_start, '1970-01-01Z') AS week, sum(length(data))::bigint AS bytes
FROM marketd.packed_blocks GROUP BY 1 ORDER BY 1;

-- name: block_pieces
-- Pieces, $2 wide, of the table $1 in which packed blocks begin; a block lies within one.
SELECT date_bin($2, ts_start, '1970-01-01Z') AS start, sum(length(data))::bigint AS bytes
FROM marketd.packed_blocks WHERE table_name = $1 GROUP BY 1 ORDER BY 1;

-- name: blocks_in
SELECT coalesce(sum(row_count), 0)::bigint AS rows, coalesce(sum(hash_record_extended(ROW(b), 0)), 0)::text AS digest
FROM marketd.packed_blocks b WHERE table_name = $1 AND ts_start >= $2 AND ts_start < $3;

-- name: block_keys
SELECT instrument_id, timeframe, ts_start FROM marketd.packed_blocks
WHERE table_name = $1 AND ts_start >= $2 AND ts_start < $3
ORDER BY instrument_id, timeframe, ts_start;

-- name: block
SELECT data, row_count FROM marketd.packed_blocks
WHERE table_name = $1 AND instrument_id = $2 AND timeframe = $3 AND ts_start = $4;

-- name: add_staged
-- What is there replaces what was packed.
WITH added AS (INSERT INTO marketd.{table} SELECT * FROM stage_{table} ON CONFLICT DO NOTHING RETURNING *)
SELECT count(*) AS rows, coalesce(sum(hash_record_extended(ROW({columns}), 0)), 0)::text AS digest FROM added;

-- name: all_seconds_due
-- Longer bars are not made of what was moved yet, and their policies may have passed its time: as for late bars.
INSERT INTO marketd.refresh_due (ts_start, ts_end)
SELECT min(ts), max(ts) + interval '1 second' FROM marketd.candles_1s HAVING count(*) > 0;
