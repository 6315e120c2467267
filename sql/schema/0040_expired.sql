-- What retention has dropped: the ledger says OBSERVED of it, and the rows are gone. Said once for all instruments of a
-- table; whoever reads the ledger of one gets it as an event of state 9 (sql/queries/read.sql).

CREATE TABLE expired (
    stream     smallint    NOT NULL,
    of_table   text        NOT NULL,
    ts_start   timestamptz NOT NULL,
    ts_end     timestamptz NOT NULL,
    ts_known   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (of_table, ts_start, ts_known)
);
COMMENT ON TABLE  expired          IS 'Stretches whose rows were dropped for their age ([retention]), of all instruments.';
COMMENT ON COLUMN expired.stream   IS 'Number of the kind that the table holds (1 trade, 2 candle, …).';
COMMENT ON COLUMN expired.of_table IS 'The table that lost its rows; bars of 1 s have another one than those of 1m and up.';
COMMENT ON COLUMN expired.ts_start IS 'Begin of the stretch, inclusive.';
COMMENT ON COLUMN expired.ts_end   IS 'End of the stretch, exclusive.';
COMMENT ON COLUMN expired.ts_known IS 'When it was dropped. What was stored later is there.';

-- Which event of an instrument's ledger was the last before such a moment.
CREATE INDEX coverage_by_known ON coverage (instrument_id, ts_known, seq);
COMMENT ON COLUMN coverage.state IS '1 observed, 2 gap, 3 backfilled, 4 venue down, 5 unstored, 6 clock step, 7 late trade refused, 8 ended; 9, expired, stands in the table of that name.';
