-- Statements that compare a standby with its primary.

-- name: position
-- Where the server's log is, in bytes: of a standby, how far it has replayed it.
SELECT pg_wal_lsn_diff(
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, '0/0'
)::bigint;
