-- marketd: profile=timescale
-- The large tables as hypertables. Our own unique keys serve the queries; the default index on time alone would not.

SELECT create_hypertable(
           format('marketd.%I', table_name)::regclass,
           by_range(time_column::name, width),
           create_default_indexes => false)
FROM partitioned_tables
ORDER BY table_name;
