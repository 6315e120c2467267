-- What the storage report measured: growth is a difference between two looks, and must outlive a restart.

CREATE TABLE storage_samples (
    taken_at   timestamptz NOT NULL,
    table_name text        NOT NULL,
    bytes      bigint      NOT NULL,
    rows       bigint      NOT NULL,
    PRIMARY KEY (table_name, taken_at)
);
COMMENT ON TABLE  storage_samples            IS 'Sizes of the tables over the last month, one look an hour: what growth and "disk full in" are made from.';
COMMENT ON COLUMN storage_samples.taken_at   IS 'When it was measured.';
COMMENT ON COLUMN storage_samples.table_name IS 'Name of the table in this schema.';
COMMENT ON COLUMN storage_samples.bytes      IS 'Bytes on disk: rows, indexes, TOAST, all pieces, compressed or not.';
COMMENT ON COLUMN storage_samples.rows       IS 'Rows, as PostgreSQL estimates them.';
