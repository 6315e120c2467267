-- What the line of one stream in one stretch is made of is found without reading the ledger that came before (see the
-- statement `line` in sql/queries/read.sql), however long a host has run; of an old stretch, past what was told since.

CREATE INDEX coverage_by_end ON coverage (instrument_id, stream, ts_end);

-- Of what has no end of its own only the last that was said before a stretch matters to it.
CREATE INDEX coverage_open ON coverage (instrument_id, stream, seq, ts_known)
WHERE state NOT IN (6, 7) AND (ts_end = 'infinity' OR (state IN (1, 8) AND ts_end <= ts_start));
