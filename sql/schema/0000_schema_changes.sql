-- What the runner itself stands on; run before every look at the schema, and so repeatable.

-- Only who makes it needs the right to: the writer has none on the database, and changes what was made for it.
DO $$
BEGIN
    IF to_regnamespace('marketd') IS NULL THEN
        CREATE SCHEMA marketd;
    END IF;
END
$$;

CREATE TABLE IF NOT EXISTS marketd.schema_changes (
    name       text        NOT NULL PRIMARY KEY,
    checksum   text        NOT NULL,
    profile    text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    took_ms    bigint      NOT NULL
);

COMMENT ON SCHEMA marketd IS 'Market data kept by marketd. Times are UTC; prices and sizes are integers at the instrument''s scale; the views v_… show real numbers.';
COMMENT ON TABLE  marketd.schema_changes            IS 'The schema files that were applied, in the order of their names.';
COMMENT ON COLUMN marketd.schema_changes.name       IS 'File name without .sql; its number gives the order.';
COMMENT ON COLUMN marketd.schema_changes.checksum   IS 'SHA-256 of the file as it was applied.';
COMMENT ON COLUMN marketd.schema_changes.profile    IS 'timescale or postgres: how this database stores its rows; the same in all rows.';
COMMENT ON COLUMN marketd.schema_changes.applied_at IS 'When it was applied.';
COMMENT ON COLUMN marketd.schema_changes.took_ms    IS 'How long that took, in milliseconds.';
