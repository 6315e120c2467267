-- Statements about packed blocks. $1 table, $2 instrument, $3 timeframe (0 where a table has none), $4 start, $5 end.
-- Stretches are at most a day long, so that whoever looks for those that touch a span begins a day before it.
-- `{table}` and `{time}` are filled in from the table of kinds, never from input.

-- name: may_have_blocks
-- Only the profile `postgres` packs; the other one has longer bars to refresh.
SELECT to_regclass('marketd.refresh_due') IS NULL;

-- name: blocks
-- Blocks that touch a span and have something that was known at $6, the newest first (`{direction}` DESC) or the oldest: of
-- the nearest $9 as many as are needed for $7 rows, with $8 rows in all. `are_all`: there is none beyond them.
SELECT ts_start, ts_end, data, count(*) OVER () = candidates AND candidates < $9 AS are_all
FROM (
    SELECT *, coalesce(sum(inside) OVER before, 0) < $7 AND coalesce(sum(row_count) OVER before, 0) < $8 AS is_wanted,
           count(*) OVER () AS candidates
    FROM (
        SELECT ts_start, ts_end, data, row_count,
               CASE WHEN ts_first >= $4 AND ts_last < $5 AND known_last <= $6 THEN row_count ELSE 0 END AS inside
        FROM packed_blocks
        WHERE table_name = $1 AND instrument_id = $2 AND timeframe = $3
          AND ts_start < $5 AND ts_start > $4::timestamptz - interval '1 day' AND ts_end > $4
          AND ts_first < $5 AND ts_last >= $4 AND known_first <= $6
        ORDER BY ts_start {direction} LIMIT $9
    ) nearest
    WINDOW before AS (ORDER BY ts_start {direction} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
) counted
WHERE is_wanted
ORDER BY ts_start {direction};

-- name: newest_blocks
-- Each of the instruments $2 has its own: the newest $5 blocks that begin before its $3, of which those that reach its $4.
SELECT wanted.id, newest.ts_start, newest.data
FROM unnest($2::int[], $3::timestamptz[], $4::timestamptz[]) AS wanted (id, before, reaching)
CROSS JOIN LATERAL (
    SELECT ts_start, ts_last, data FROM packed_blocks
    WHERE table_name = $1 AND instrument_id = wanted.id AND timeframe = 0 AND ts_start < wanted.before
    ORDER BY ts_start DESC LIMIT $5
) newest
WHERE newest.ts_last >= wanted.reaching
ORDER BY wanted.id, newest.ts_start DESC;

-- name: whole_blocks
-- The blocks that have the newest $7 rows of a span, of the nearest $9, in the order of time; none where something in them was
-- not known at $6, or where they have more than $8 rows. `inside`: how many rows lie in the span for certain.
SELECT data, row_count, inside, are_all
FROM (
    SELECT *, bool_and(known_last <= $6) OVER () AS are_known, sum(row_count) OVER () AS rows,
           sum(inside) OVER () >= $7 AS are_enough, count(*) OVER () = candidates AND candidates < $9 AS are_all
    FROM (
        SELECT *, coalesce(sum(inside) OVER (ORDER BY ts_start DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)
                  AS rows_before,
               count(*) OVER () AS candidates
        FROM (
            SELECT ts_start, data, row_count, known_last,
                   CASE WHEN ts_first >= $4 AND ts_last < $5 THEN row_count ELSE 0 END AS inside
            FROM packed_blocks
            WHERE table_name = $1 AND instrument_id = $2 AND timeframe = $3
              AND ts_start < $5 AND ts_start > $4::timestamptz - interval '1 day' AND ts_end > $4
              AND ts_first < $5 AND ts_last >= $4
            ORDER BY ts_start DESC LIMIT $9
        ) nearest
    ) counted
    WHERE rows_before < $7
) needed
WHERE are_known AND rows <= $8 AND (are_all OR are_enough)
ORDER BY ts_start;

-- name: share_locks
-- Of a writer: until its transaction ends nothing of these tables ($1) and instruments ($2) is packed. Always in the same
-- order, though shared locks do not wait for each other.
SELECT pg_advisory_xact_lock_shared(hashtext('marketd packed ' || table_name), instrument_id)
FROM (SELECT DISTINCT table_name, instrument_id FROM unnest($1::text[], $2::int[]) AS touched (table_name, instrument_id)
      ORDER BY 1, 2) touched;

-- name: touched_blocks
-- Where records are packed already: $1 tables, $2 instruments, $3 and $4 the oldest and newest times of their records.
SELECT place::int, b.table_name, b.instrument_id, b.timeframe, b.ts_start, b.ts_first, b.ts_last
FROM unnest($1::text[], $2::int[], $3::timestamptz[], $4::timestamptz[])
         WITH ORDINALITY AS touched (table_name, instrument_id, first, last, place)
JOIN packed_blocks b ON b.table_name = touched.table_name AND b.instrument_id = touched.instrument_id
    AND b.ts_start <= touched.last AND b.ts_start > touched.first - interval '1 day' AND b.ts_end > touched.first
    AND b.ts_last >= touched.first AND b.ts_first <= touched.last;

-- name: block_data
SELECT data FROM packed_blocks
WHERE table_name = $1 AND instrument_id = $2 AND timeframe = $3 AND ts_start = $4;

-- name: bring_back
-- Rows of a block beside it, as if they had never been packed; those that were brought back before stay.
INSERT INTO {table} SELECT * FROM stage_{table} ON CONFLICT DO NOTHING;

-- name: try_lock
-- Of a packer: false while a writer, or another packer, is at the same instrument of the table.
SELECT pg_try_advisory_xact_lock(hashtext('marketd packed ' || $1), $2::int);

-- name: instruments_in
-- Who has rows in a piece: from one to the next by the index.
WITH RECURSIVE found (instrument_id) AS (
    (SELECT instrument_id FROM {piece} ORDER BY 1 LIMIT 1)
    UNION ALL
    SELECT (SELECT p.instrument_id FROM {piece} p WHERE p.instrument_id > found.instrument_id ORDER BY 1 LIMIT 1)
    FROM found WHERE found.instrument_id IS NOT NULL
)
SELECT instrument_id FROM found WHERE instrument_id IS NOT NULL;

-- name: oldest_row
-- $1 instrument, $2 start, $3 end; of buckets $4 is the timeframe.
SELECT min({time}) FROM {table} WHERE instrument_id = $1 {and_timeframe} AND {time} >= $2 AND {time} < $3;

-- name: row_after
-- The time of the row that {rows} others come before: where a block may end.
SELECT {time} FROM {table}
WHERE instrument_id = $1 {and_timeframe} AND {time} >= $2 AND {time} < $3
ORDER BY {time} OFFSET {rows} LIMIT 1;

-- name: next_row
-- The first time after $2.
SELECT min({time}) FROM {table} WHERE instrument_id = $1 {and_timeframe} AND {time} > $2 AND {time} < $3;

-- name: depth
-- Levels a side of the deepest of the first {rows} books.
SELECT max(cardinality(bid_price))
FROM (SELECT bid_price FROM {table}
      WHERE instrument_id = $1 AND {time} >= $2 AND {time} < $3 ORDER BY {time} LIMIT {rows}) first;

-- name: block_at
-- The block whose stretch holds the moment $4.
SELECT ts_start, ts_end, stored_at, row_count, bytes_before, data FROM packed_blocks
WHERE table_name = $1 AND instrument_id = $2 AND timeframe = $3
  AND ts_start <= $4 AND ts_start > $4::timestamptz - interval '1 day' AND ts_end > $4;

-- name: neighbours
-- Between which blocks the moment $4 lies that is in none: the end of the one before and the start of the one after, within
-- $5 and $6.
SELECT greatest($5::timestamptz, (SELECT max(ts_end) FROM packed_blocks
                                  WHERE table_name = $1 AND instrument_id = $2 AND timeframe = $3
                                    AND ts_start > $5::timestamptz - interval '1 day' AND ts_end <= $4)) AS ts_start,
       least($6::timestamptz, (SELECT min(ts_start) FROM packed_blocks
                               WHERE table_name = $1 AND instrument_id = $2 AND timeframe = $3
                                 AND ts_start > $4 AND ts_start < $6)) AS ts_end;

-- name: bytes_of_rows
-- What the rows of a stretch take: themselves, and of their partition's indexes and TOAST the like share. A row has four
-- bytes of its page's directory.
SELECT coalesce(sum(bytes * pg_total_relation_size(piece) / greatest(pg_relation_size(piece), 1)), 0)::bigint
FROM (
    SELECT tableoid AS piece, sum(pg_column_size(t.*)) + 4 * count(*) AS bytes
    FROM {table} t WHERE instrument_id = $1 {and_timeframe} AND {time} >= $2 AND {time} < $3
    GROUP BY 1
) pieces;

-- name: take_rows
-- What is taken away is what comes out: nobody's row can be lost in between.
DELETE FROM {table} WHERE instrument_id = $1 {and_timeframe} AND {time} >= $2 AND {time} < $3 RETURNING {columns};

-- name: remove_block
DELETE FROM packed_blocks WHERE table_name = $1 AND instrument_id = $2 AND timeframe = $3 AND ts_start = $4;

-- name: insert_block
INSERT INTO packed_blocks (table_name, instrument_id, timeframe, ts_start, ts_end, ts_first, ts_last, known_first,
                           known_last, row_count, stored_at, bytes_before, data)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13);

-- name: drop_old
-- Blocks of $1 that end at $2 or earlier, and were packed first before it; told in `expired` under the stream $3, if any.
WITH gone AS (
    DELETE FROM packed_blocks WHERE table_name = $1 AND ts_end <= $2 AND stored_at < $2
    RETURNING instrument_id, ts_start, ts_end
), told AS (
    INSERT INTO expired (stream, of_table, ts_start, ts_end)
    SELECT $3::smallint, $1, ts_start, max(ts_end) FROM gone WHERE $3::smallint IS NOT NULL GROUP BY ts_start
)
SELECT $1 || ' ' || instrument_id || ' ' || ts_start AS name, instrument_id, ts_start, ts_end
FROM gone ORDER BY instrument_id, ts_start;

-- name: drop_replaced
-- The versions that bars of one second of such a block had replaced: one of them would count as the newest.
DELETE FROM candle_versions WHERE instrument_id = $1 AND timeframe = 1 AND ts >= $2 AND ts < $3;
