-- Roles and their rights (sql/rights.py). Each statement looks first and changes only what is missing: rights are catalogue
-- rows, and who writes them anew at every start gets in the way of others.

-- name: make_roles
-- Roles belong to the whole server, and another database's marketd may make them at this moment.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['marketd_writer', 'marketd_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', role);
            EXECUTE format('ALTER ROLE %I SET search_path = marketd, public', role);
            IF role = 'marketd_reader' THEN
                ALTER ROLE marketd_reader SET default_transaction_read_only = on;
                ALTER ROLE marketd_reader SET statement_timeout = '60s';
                -- idle in its transaction it would keep pieces from being compressed or dropped, and all others behind that
                ALTER ROLE marketd_reader SET idle_in_transaction_session_timeout = '60s';
            END IF;
        END IF;
    END LOOP;
    -- where the data lies: of how full its disk is the storage actor tells
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
            AND NOT pg_has_role('marketd_writer', 'pg_read_all_settings', 'MEMBER') THEN
        GRANT pg_read_all_settings TO marketd_writer;
    END IF;
    -- who reads under the writer's login goes on as the reader
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
            AND NOT pg_has_role('marketd_writer', 'marketd_reader', 'MEMBER') THEN
        GRANT marketd_reader TO marketd_writer;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END $$;

-- name: give_to_writer
-- The schema and what is in it belong to the writer: PostgreSQL has no smaller right with which partitions are made and dropped,
-- or chunks compressed. Sequences go with the tables that they number.
DO $$
DECLARE
    found record;
BEGIN
    IF (SELECT nspowner FROM pg_namespace WHERE nspname = 'marketd') <> 'marketd_writer'::regrole THEN
        ALTER SCHEMA marketd OWNER TO marketd_writer;
    END IF;
    IF NOT has_database_privilege('marketd_writer', current_database(), 'TEMPORARY') THEN
        EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO marketd_writer', current_database());
    END IF;
    FOR found IN
        SELECT c.relname, CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END AS kind
        FROM pg_class c
        WHERE c.relnamespace = 'marketd'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
          AND c.relowner <> 'marketd_writer'::regrole
        ORDER BY c.relkind DESC, c.oid
    LOOP
        BEGIN
            EXECUTE format('ALTER %s marketd.%I OWNER TO marketd_writer', found.kind, found.relname);
        EXCEPTION WHEN feature_not_supported THEN  -- a continuous aggregate, which pg_class has as a view
            EXECUTE format('ALTER MATERIALIZED VIEW marketd.%I OWNER TO marketd_writer', found.relname);
        END;
    END LOOP;
    FOR found IN
        SELECT p.oid::regprocedure::text AS name, CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END AS kind
        FROM pg_proc p
        WHERE p.pronamespace = 'marketd'::regnamespace AND p.proowner <> 'marketd_writer'::regrole
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO marketd_writer', found.kind, found.name);
    END LOOP;
END $$;

-- name: grant_reader
-- Also for what the owner makes later: partitions, tables of series.
DO $$
DECLARE
    found record;
    owner regrole := (SELECT nspowner FROM pg_namespace WHERE nspname = 'marketd');
BEGIN
    IF NOT has_schema_privilege('marketd_reader', 'marketd', 'USAGE') THEN
        GRANT USAGE ON SCHEMA marketd TO marketd_reader;
    END IF;
    FOR found IN
        SELECT c.relname FROM pg_class c
        WHERE c.relnamespace = 'marketd'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
          AND NOT has_table_privilege('marketd_reader', c.oid, 'SELECT')
    LOOP
        EXECUTE format('GRANT SELECT ON marketd.%I TO marketd_reader', found.relname);
    END LOOP;
    FOR found IN
        SELECT DISTINCT made_by::text AS role FROM unnest(ARRAY[owner, current_user::regrole]) AS maker (made_by)
        WHERE NOT EXISTS (
            SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) a
            WHERE d.defaclrole = made_by AND d.defaclnamespace = 'marketd'::regnamespace AND d.defaclobjtype = 'r'
              AND a.grantee = 'marketd_reader'::regrole AND a.privilege_type = 'SELECT')
    LOOP
        EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %s IN SCHEMA marketd GRANT SELECT ON TABLES TO marketd_reader',
                       found.role);
    END LOOP;
END $$;

-- name: facts
-- What the connecting user may do, and what there is.
SELECT current_user::text AS me,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
       (SELECT rolcreaterole FROM pg_roles WHERE rolname = current_user) AS may_make_roles,
       to_regrole('marketd_writer') IS NOT NULL AS has_writer,
       to_regrole('marketd_reader') IS NOT NULL AS has_reader,
       coalesce((SELECT pg_has_role(current_user, oid, CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END) FROM pg_roles WHERE rolname = 'marketd_reader'),
                false) AS may_be_reader,
       coalesce((SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'marketd'), '') AS owner,
       -- who may set it does (recompresses_by_segments in policies.sql)
       coalesce((SELECT format('ALTER ROLE %s IN DATABASE %I SET timescaledb.enable_segmentwise_recompression = off',
                               n.nspowner::regrole, current_database())
                 FROM pg_namespace n, pg_roles r, pg_extension e
                 WHERE n.nspname = 'marketd' AND r.rolname = current_user AND e.extname = 'timescaledb'
                   AND NOT (r.rolsuper OR r.oid = n.nspowner)
                   AND NOT EXISTS (
                       SELECT FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
                       WHERE d.datname = current_database() AND s.setrole = n.nspowner
                         AND 'timescaledb.enable_segmentwise_recompression=off' = ANY (s.setconfig))),
                '') AS recompression;

-- name: become_reader
-- A session that only reads goes on as the reader, where its login may and the reader may read all of our schema.
SELECT set_config('role', 'marketd_reader', false)
FROM pg_roles
WHERE rolname = 'marketd_reader' AND current_user <> rolname AND has_schema_privilege(oid, 'marketd', 'USAGE')
  AND NOT EXISTS (
      SELECT FROM pg_class c
      WHERE c.relnamespace = 'marketd'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
        AND NOT has_table_privilege(pg_roles.oid, c.oid, 'SELECT'))
  AND pg_has_role(current_user, oid, CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END);

-- name: reading
-- Who a session reads as, and whether that one could change what it reads.
SELECT current_user::text AS role, has_table_privilege('marketd.trades', 'INSERT') AS may_write;
