-- Statements of `marketd quarantine`. The filter is the same in all: $1 ids, $2 rule, $3 instrument, $4 kind, $5 source,
-- $6 start (inclusive), $7 end (exclusive); a NULL does not filter.

-- name: list
-- The newest rows, without their payloads; $8 how many.
SELECT q.id, q.ts_known, q.instrument_id, coalesce(i.symbol || '.' || i.venue, '') AS instrument,
       q.kind, q.rule, q.detail, q.source, length(q.payload) AS payload_bytes
FROM quarantine q LEFT JOIN instruments i USING (instrument_id)
WHERE {filter}
ORDER BY q.ts_known DESC, q.id DESC LIMIT $8;

-- name: summary
-- How many of each rule, instrument and source; $8 how many lines.
SELECT q.rule, coalesce(i.symbol || '.' || i.venue, '') AS instrument, q.kind, q.source, count(*) AS rows,
       min(q.ts_known) AS first, max(q.ts_known) AS last
FROM quarantine q LEFT JOIN instruments i USING (instrument_id)
WHERE {filter}
GROUP BY 1, 2, 3, 4
ORDER BY rows DESC, q.rule LIMIT $8;

-- name: show
-- Whole rows, in the order of their ids; $8 how many.
SELECT q.*, coalesce(i.symbol || '.' || i.venue, '') AS instrument
FROM quarantine q LEFT JOIN instruments i USING (instrument_id)
WHERE {filter}
ORDER BY q.id LIMIT $8;

-- name: count
SELECT count(*) FROM quarantine q LEFT JOIN instruments i USING (instrument_id) WHERE {filter};

-- name: purge
DELETE FROM quarantine WHERE id IN (
    SELECT q.id FROM quarantine q LEFT JOIN instruments i USING (instrument_id) WHERE {filter}
);

-- name: filter
-- What stands in place of the braces.
($1::bigint[] IS NULL OR q.id = ANY ($1))
  AND ($2::text IS NULL OR q.rule = $2)
  AND ($3::text IS NULL OR $3 IN (q.instrument_id::text, i.symbol, i.symbol || '.' || i.venue, i.base || '/' || i.quote))
  AND ($4::text IS NULL OR q.kind = $4)
  AND ($5::text IS NULL OR q.source = $5)
  AND ($6::timestamptz IS NULL OR q.ts_known >= $6)
  AND ($7::timestamptz IS NULL OR q.ts_known < $7);
