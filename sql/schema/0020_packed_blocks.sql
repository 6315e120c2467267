-- Closed stretches of the large tables, packed column by column (market/blocks.py). Used by the postgres profile; on
-- timescale, whose chunks are compressed by TimescaleDB, the table stays empty, so that reading asks no question first.

CREATE TABLE packed_blocks (
    table_name    text        NOT NULL,
    instrument_id int         NOT NULL,
    timeframe     int         NOT NULL,
    ts_start      timestamptz NOT NULL,
    ts_end        timestamptz NOT NULL,
    ts_first      timestamptz NOT NULL,
    ts_last       timestamptz NOT NULL,
    known_first   timestamptz NOT NULL,
    known_last    timestamptz NOT NULL,
    row_count     int         NOT NULL,
    stored_at     timestamptz NOT NULL,
    packed_at     timestamptz NOT NULL DEFAULT now(),
    data          bytea       NOT NULL,
    PRIMARY KEY (table_name, instrument_id, timeframe, ts_start),
    -- who looks for the blocks of a stretch looks no further back than this
    CONSTRAINT packed_blocks_length CHECK (ts_start < ts_end AND ts_end <= ts_start + interval '1 day')
);
-- the bytes are deflated already
ALTER TABLE packed_blocks ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX packed_blocks_by_age ON packed_blocks (table_name, ts_end);
COMMENT ON TABLE  packed_blocks               IS 'Closed stretches of trades, candles_1s, book_snapshots, … of one instrument, packed: their rows are here and no more in their tables. marketd reads both.';
COMMENT ON COLUMN packed_blocks.table_name    IS 'The table whose rows they were.';
COMMENT ON COLUMN packed_blocks.instrument_id IS 'See instruments.';
COMMENT ON COLUMN packed_blocks.timeframe     IS 'Of book_buckets, in seconds; else 0.';
COMMENT ON COLUMN packed_blocks.ts_start      IS 'Begin of the stretch, inclusive. Stretches of an instrument do not overlap, and none is longer than a day.';
COMMENT ON COLUMN packed_blocks.ts_end        IS 'End of the stretch, exclusive. Later rows of the stretch lie in their table until they are packed too.';
COMMENT ON COLUMN packed_blocks.ts_first      IS 'The oldest time of a row.';
COMMENT ON COLUMN packed_blocks.ts_last       IS 'The newest time of a row.';
COMMENT ON COLUMN packed_blocks.known_first   IS 'The smallest ts_known of a row: nothing of the block was known before.';
COMMENT ON COLUMN packed_blocks.known_last    IS 'The greatest ts_known of a row.';
COMMENT ON COLUMN packed_blocks.row_count     IS 'How many rows it holds.';
COMMENT ON COLUMN packed_blocks.stored_at     IS 'When the stretch was packed for the first time: what was stored lately is not dropped for its age.';
COMMENT ON COLUMN packed_blocks.packed_at     IS 'When it was packed as it is.';
COMMENT ON COLUMN packed_blocks.data          IS 'The rows, column by column; docs/database.md tells the format, and marketd query shows what is in it.';
