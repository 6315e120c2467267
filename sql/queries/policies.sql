-- What TimescaleDB does by itself in the background, and how it fares.

-- name: widths
SELECT hypertable_name AS "table", time_interval AS width FROM timescaledb_information.dimensions
WHERE hypertable_schema = 'marketd' AND dimension_type = 'Time' ORDER BY 1;

-- name: policies
SELECT hypertable_name AS target, proc_name, schedule_interval, initial_start,
       (config ->> 'compress_after')::interval AS compress_after,
       (config ->> 'start_offset')::interval AS start_offset, (config ->> 'end_offset')::interval AS end_offset
FROM timescaledb_information.jobs
WHERE hypertable_schema = 'marketd' AND proc_name IN ('policy_compression', 'policy_refresh_continuous_aggregate');

-- name: set_width
SELECT public.set_chunk_time_interval(format('marketd.%I', $1::text)::regclass, $2::interval);

-- name: record_width
UPDATE partitioned_tables SET width = $2::interval WHERE table_name = $1::text;

-- name: stop_compressing
SELECT public.remove_compression_policy(format('marketd.%I', $1::text)::regclass, if_exists => true);

-- name: compress
SELECT public.add_compression_policy(
    format('marketd.%I', $1::text)::regclass, compress_after => $2::interval, schedule_interval => $3::interval,
    initial_start => date_trunc('hour', now(), 'UTC') + interval '1 hour' + $4::interval);

-- name: recompresses_by_segments
-- Whether the schema's owner, as whom the jobs run, has no word against it, and the connecting user may set it.
SELECT NOT EXISTS (
    SELECT FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
    WHERE d.datname = current_database() AND s.setrole = n.nspowner
      AND 'timescaledb.enable_segmentwise_recompression=off' = ANY (s.setconfig)
) AND (r.rolsuper OR r.oid = n.nspowner)
FROM pg_namespace n, pg_roles r WHERE n.nspname = 'marketd' AND r.rolname = current_user;

-- name: recompress_as_a_whole
DO $$ BEGIN
    EXECUTE format('ALTER ROLE %s IN DATABASE %I SET timescaledb.enable_segmentwise_recompression = off',
                   (SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'marketd'), current_database());
END $$;

-- name: stop_refreshing
SELECT public.remove_continuous_aggregate_policy(format('marketd.%I', $1::text)::regclass, if_exists => true);

-- name: refresh
SELECT public.add_continuous_aggregate_policy(
    format('marketd.%I', $1::text)::regclass, start_offset => $2::interval, end_offset => $5::interval,
    schedule_interval => $3::interval,
    initial_start => date_trunc('hour', now(), 'UTC') + interval '1 hour' + $4::interval);

-- name: refreshes_reach
-- Whether a policy may sum up again what lies before $1.
SELECT EXISTS (
    SELECT FROM timescaledb_information.jobs
    WHERE hypertable_schema = 'marketd' AND proc_name = 'policy_refresh_continuous_aggregate'
      AND coalesce(now() - (config ->> 'start_offset')::interval < $1, true)
);

-- name: failing_jobs
-- Jobs of ours of which the last run failed, and what it said.
SELECT j.job_id, j.proc_name, j.hypertable_name AS target, s.total_failures,
       coalesce(e.err_message, 'no reason was given') AS error, coalesce(e.sqlerrcode, '') AS sqlstate
FROM timescaledb_information.jobs j
JOIN timescaledb_information.job_stats s USING (job_id)
LEFT JOIN LATERAL (
    SELECT err_message, sqlerrcode FROM timescaledb_information.job_errors
    WHERE job_id = j.job_id ORDER BY finish_time DESC NULLS LAST LIMIT 1
) e ON true
WHERE j.hypertable_schema = 'marketd' AND s.last_run_status = 'Failed'
ORDER BY j.job_id;

-- name: run_job
CALL public.run_job($1);
