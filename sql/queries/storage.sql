-- What the storage report asks (sql/storage.py): sizes of files and what statistics know of rows; nothing reads a table.

-- name: partitions
-- The pieces of the postgres profile; rows as the last ANALYZE has them, before the first as the statistics count them.
SELECT p.table_name, piece.relname AS name, pg_total_relation_size(piece.oid) AS bytes,
       CASE WHEN piece.reltuples >= 0 THEN piece.reltuples::bigint ELSE pg_stat_get_live_tuples(piece.oid) END AS rows,
       NULL::bigint AS packed_rows, NULL::bigint AS packed_bytes, NULL::bigint AS bytes_before
FROM partitioned_tables p
JOIN pg_inherits ON inhparent = to_regclass(format('marketd.%I', p.table_name))
JOIN pg_class piece ON piece.oid = inhrelid;

-- name: chunks
-- The pieces of the timescale profile, and those of its continuous aggregates under the aggregate's name.
WITH cut AS (
    SELECT hypertable_name AS table_name, format('%I.%I', hypertable_schema, hypertable_name)::regclass AS relation
    FROM timescaledb_information.hypertables
    WHERE hypertable_schema = 'marketd'
    UNION ALL
    SELECT view_name, format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)::regclass
    FROM timescaledb_information.continuous_aggregates
    WHERE view_schema = 'marketd'
)
SELECT cut.table_name, size.chunk_name AS name, size.total_bytes AS bytes,
       CASE WHEN pressed.chunk_id IS NULL AND piece.reltuples >= 0 THEN piece.reltuples::bigint
            ELSE pg_stat_get_live_tuples(piece.oid) END AS rows,
       pressed.numrows_pre_compression AS packed_rows,
       pressed.compressed_heap_size + pressed.compressed_toast_size + pressed.compressed_index_size AS packed_bytes,
       pressed.uncompressed_heap_size + pressed.uncompressed_toast_size + pressed.uncompressed_index_size AS bytes_before
FROM cut
CROSS JOIN LATERAL public.chunks_detailed_size(cut.relation) size
JOIN pg_class piece ON piece.oid = format('%I.%I', size.chunk_schema, size.chunk_name)::regclass
-- the public functions tell bytes, but no rows; the catalogue of chunks is another in each version, this function is not
LEFT JOIN _timescaledb_catalog.compression_chunk_size pressed
    ON pressed.chunk_id = _timescaledb_functions.chunk_id_from_relid(piece.oid);

-- name: packed
-- Packed blocks by table and day. Their lengths stand in the rows: nothing is unpacked, nor even fetched.
SELECT table_name, 'packed ' || to_char(start, 'YYYY-MM-DD') AS name, start, start + interval '1 day' AS "end", made, rows, oldest, newest,
       measured_rows, bytes_before,
       (bytes * (pg_total_relation_size('packed_blocks') / sum(bytes) OVER ()))::bigint AS bytes
FROM (
    SELECT table_name, date_trunc('day', ts_start, 'UTC') AS start, max(stored_at) AS made, sum(row_count)::bigint AS rows,
           sum(length(data))::bigint AS bytes, sum(bytes_before)::bigint AS bytes_before,
           coalesce(sum(row_count) FILTER (WHERE bytes_before > 0), 0)::bigint AS measured_rows, min(ts_first) AS oldest, max(ts_last) AS newest
    FROM packed_blocks
    GROUP BY 1, 2
) days
ORDER BY table_name, start;

-- name: aggregate_pieces
-- When the chunks of continuous aggregates begin and end.
SELECT a.view_name AS table_name, c.chunk_name AS name, c.range_start, c.range_end, c.chunk_creation_time AS made
FROM timescaledb_information.continuous_aggregates a
JOIN timescaledb_information.chunks c
    ON c.hypertable_schema = a.materialization_hypertable_schema
   AND c.hypertable_name = a.materialization_hypertable_name
WHERE a.view_schema = 'marketd';

-- name: aggregates
-- Which relation has the rows of a continuous aggregate that are summed up already, where we may read it.
SELECT view_name AS table_name, format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name) AS relation
FROM timescaledb_information.continuous_aggregates
WHERE view_schema = 'marketd' AND has_table_privilege(
    format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name), 'SELECT');

-- name: whole_tables
-- Tables that are not cut; what is packed counts where it belongs.
SELECT c.relname AS table_name, pg_total_relation_size(c.oid) AS bytes,
       CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint ELSE pg_stat_get_live_tuples(c.oid) END AS rows
FROM pg_class c
WHERE c.relnamespace = 'marketd'::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
  AND c.relname <> 'packed_blocks'
  AND NOT EXISTS (SELECT FROM partitioned_tables p WHERE p.table_name = c.relname)
ORDER BY c.relname;

-- name: server
SELECT pg_database_size(current_database()) AS database_bytes, inet_server_addr() IS NULL AS is_local,
       (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS data_directory;

-- name: edges
-- The first and the last time in a piece: `{table}`, `{time}` are ours. Each instrument's is the end of an index.
SELECT min(edge.first) AS first, max(edge.last) AS last
FROM instruments i
CROSS JOIN LATERAL (
    SELECT min({time}) AS first, max({time}) AS last FROM {table}
    WHERE instrument_id = i.instrument_id AND {time} >= $1 AND {time} < $2
) edge;

-- name: earlier
-- Of each table the oldest look of the last week that is at least an hour old.
SELECT DISTINCT ON (table_name) table_name, taken_at, bytes, rows
FROM storage_samples
WHERE taken_at > $1::timestamptz - interval '7 days' AND taken_at <= $1::timestamptz - interval '1 hour'
ORDER BY table_name, taken_at;

-- name: newest_sample
SELECT max(taken_at) FROM storage_samples;

-- name: add_sample
INSERT INTO storage_samples (taken_at, table_name, bytes, rows) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING;

-- name: forget_samples
DELETE FROM storage_samples WHERE taken_at < $1::timestamptz - interval '31 days';
