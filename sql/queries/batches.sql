-- Statements about compressed chunks of TimescaleDB as they lie in its catalogue (sql/read_batches.py).

-- name: version
-- NULL where there is no TimescaleDB.
SELECT (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb');

-- name: pieces
-- The chunks of table $1 that touch [$2, $3), µs since 1970; of a compressed one where its batches lie and how they are made.
SELECT quote_ident(cn.nspname) || '.' || quote_ident(c.relname) AS rows, c.oid AS rows_oid, c.relfilenode AS rows_file,
       quote_ident(bn.nspname) || '.' || quote_ident(b.relname) AS batches, b.oid AS batches_oid, b.relfilenode AS batches_file,
       k.status, k.osm_chunk AS is_foreign, s.segmentby AS segments, s.orderby[1] AS ordered_by,
       ARRAY(SELECT a.attname || ' ' || t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = b.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       has_table_privilege(c.oid, 'SELECT') AND coalesce(has_table_privilege(b.oid, 'SELECT'), true) AS may_read
FROM _timescaledb_catalog.hypertable h
JOIN _timescaledb_catalog.chunk k ON k.hypertable_id = h.id
JOIN _timescaledb_catalog.dimension_slice l ON l.chunk_id = k.id AND l.range_start < $3 AND l.range_end > $2
JOIN pg_class c ON c.oid = k.relid
JOIN pg_namespace cn ON cn.oid = c.relnamespace
LEFT JOIN _timescaledb_catalog.compression_settings s ON s.relid = k.relid
LEFT JOIN pg_class b ON b.oid = s.compress_relid
LEFT JOIN pg_namespace bn ON bn.oid = b.relnamespace
WHERE h.schema_name = 'marketd' AND h.table_name = $1;

-- name: heads
-- How many rows the batches of a piece have that touch [$2, $3), and their times.
SELECT _ts_meta_count AS rows, _ts_meta_min_1 AS first, _ts_meta_max_1 AS last FROM {batches}
WHERE instrument_id = $1 AND _ts_meta_max_1 >= $2 AND _ts_meta_min_1 < $3 {and_segment};

-- name: batches
SELECT _ts_meta_count, {columns}, _ts_meta_max_1 AS last FROM {batches}
WHERE instrument_id = $1 AND _ts_meta_max_1 >= $2 AND _ts_meta_min_1 < $3 {and_segment};

-- name: newest_batches
SELECT _ts_meta_count, {names} FROM ({batches}) batches ORDER BY last DESC;

-- name: rows
-- What lies in a chunk beside its batches (none of which ONLY reads): all of it, where it is not compressed.
SELECT {columns} FROM ONLY {rows}
WHERE instrument_id = $1 AND {time} >= $2 AND {time} < $3 {and_segment};

-- name: how_many
-- Rows beside batches, counted up to {most}.
SELECT count(*) FROM ({rows} LIMIT {most}) AS beside;

-- name: are_same
-- Are the tables $1 still those of these names ($2) and files ($3)? A truncated one is of another file.
SELECT coalesce(bool_and(to_regclass(name)::oid = relation AND pg_relation_filenode(relation) = file), true)
FROM unnest($1::oid[], $2::text[], $3::oid[]) AS seen (relation, name, file);
