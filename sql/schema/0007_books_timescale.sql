-- marketd: profile=timescale
-- As 0003: hypertables, without the default index on time alone.

SELECT create_hypertable(
           format('marketd.%I', table_name)::regclass,
           by_range(time_column::name, width),
           create_default_indexes => false)
FROM partitioned_tables
WHERE table_name IN ('book_snapshots', 'book_deltas', 'book_venues', 'imbalances', 'book_buckets')
ORDER BY table_name;
