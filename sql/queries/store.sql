-- Statements of the writer. `{…}` is filled in from a fixed table of names in store.py, never from input.

-- name: committed
-- How far the database has a journal.
SELECT committed_offset, extract(epoch FROM ts_known)::numeric * 1000000000 AS ts_known_ns
FROM journal_commits WHERE journal = $1;

-- name: commit_offset
-- In the transaction of the rows, before them: afterwards the database has them and knows it, or neither. No row when it is
-- not at $5, where they begin.
INSERT INTO journal_commits (journal, lane, committed_offset, committed_at, ts_known)
VALUES ($1, $2, $3, clock_timestamp(), $4)
ON CONFLICT (journal) DO UPDATE
SET committed_offset = EXCLUDED.committed_offset, committed_at = EXCLUDED.committed_at,
    ts_known = greatest(journal_commits.ts_known, EXCLUDED.ts_known)
WHERE journal_commits.committed_offset = $5;

-- name: upsert_instrument
INSERT INTO instruments (instrument_id, symbol, venue, base, quote, market, price_scale, size_scale, quote_scale,
                         tick_size, step_size, flags, ts_known, seq)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (instrument_id) DO UPDATE
SET base = EXCLUDED.base, quote = EXCLUDED.quote, market = EXCLUDED.market, tick_size = EXCLUDED.tick_size,
    step_size = EXCLUDED.step_size, flags = EXCLUDED.flags, ts_known = EXCLUDED.ts_known, seq = EXCLUDED.seq
WHERE instruments.seq < EXCLUDED.seq;

-- name: insert_coverage
INSERT INTO coverage (instrument_id, ts_event, ts_known, seq, stream, state, ts_start, ts_end, detail, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: insert_quarantine
INSERT INTO quarantine (instrument_id, ts_known, journal, "offset", item, kind, rule, detail, source, payload)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT DO NOTHING;

-- name: stage
-- A staging table of this session, emptied at the end of every transaction.
CREATE TEMPORARY TABLE IF NOT EXISTS stage_{table} (LIKE {table}) ON COMMIT DELETE ROWS;

-- name: merge_trades
-- A trade that is there already stays as it was first known; ON CONFLICT: or is being stored by the other lane at this
-- moment, which the join cannot see.
INSERT INTO trades
SELECT DISTINCT ON (s.instrument_id, s.ts_event, s.trade_id) s.*
FROM stage_trades s
LEFT JOIN trades t ON t.instrument_id = s.instrument_id AND t.ts_event = s.ts_event AND t.trade_id = s.trade_id
    AND t.ts_event >= $1 AND t.ts_event <= $2
WHERE t.instrument_id IS NULL
ORDER BY s.instrument_id, s.ts_event, s.trade_id, s.seq
ON CONFLICT DO NOTHING;

-- name: merge_series
-- Everything of which each record has a seq of its own: declared series, and what order books leave behind.
INSERT INTO {table}
SELECT s.* FROM stage_{table} s
LEFT JOIN {table} t ON t.instrument_id = s.instrument_id AND t.{time} = s.{time} AND t.seq = s.seq
    AND t.{time} >= $1 AND t.{time} <= $2
WHERE t.instrument_id IS NULL;

-- name: drop_unchanged_bars
-- A bar sent again with the same numbers as its last version is no new version. Only within a lane (an import's seq is below
-- 0), and only if it was not known before that one: then the answer of every moment stays what it was.
DELETE FROM stage_{table} s USING (
    SELECT instrument_id, timeframe, ts, source, seq,
           numbers = lag(numbers) OVER versions AND (seq < 0) = lag(seq < 0) OVER versions
               AND ts_known >= lag(ts_known) OVER versions AS unchanged
    FROM (
        SELECT instrument_id, {timeframe} AS timeframe, ts, source, seq, ts_known,
               ARRAY[open, high, low, close, volume, quote_volume, buy_volume, trade_count, flags & 1] AS numbers
        FROM stage_{table}
        UNION ALL
        SELECT c.instrument_id, {c_timeframe}, c.ts, c.source, c.seq, c.ts_known,
               ARRAY[c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.buy_volume, c.trade_count, c.flags & 1]
        FROM {table} c
        WHERE c.ts >= $1 AND c.ts <= $2
          AND EXISTS (SELECT FROM stage_{table} s
                      WHERE s.instrument_id = c.instrument_id {and_timeframe} AND s.ts = c.ts AND s.source = c.source)
        UNION ALL
        SELECT c.instrument_id, c.timeframe, c.ts, c.source, c.seq, c.ts_known,
               ARRAY[c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.buy_volume, c.trade_count, c.flags & 1]
        FROM candle_versions c
        WHERE c.ts >= $1 AND c.ts <= $2
          AND EXISTS (SELECT FROM stage_{table} s
                      WHERE s.instrument_id = c.instrument_id AND c.timeframe = {s_timeframe} AND s.ts = c.ts
                        AND s.source = c.source)
    ) u
    WINDOW versions AS (PARTITION BY instrument_id, timeframe, ts, source ORDER BY seq)
) v
WHERE v.unchanged AND v.instrument_id = s.instrument_id AND v.timeframe = {s_timeframe} AND v.ts = s.ts
  AND v.source = s.source AND v.seq = s.seq;

-- name: keep_replaced_bars
-- Versions that a later one replaces: those in the table, and all but the newest of the stage.
INSERT INTO candle_versions (instrument_id, timeframe, ts, ts_known, seq, source, open, high, low, close, volume,
                             quote_volume, buy_volume, trade_count, flags)
SELECT instrument_id, timeframe, ts, ts_known, seq, source, open, high, low, close, volume, quote_volume, buy_volume,
       trade_count, flags
FROM (
    SELECT u.*, max(seq) OVER (PARTITION BY instrument_id, timeframe, ts, source) AS newest
    FROM (
        SELECT instrument_id, {timeframe} AS timeframe, ts, ts_known, seq, source, open, high, low, close, volume,
               quote_volume, buy_volume, trade_count, flags
        FROM stage_{table}
        UNION ALL
        SELECT c.instrument_id, {c_timeframe} AS timeframe, c.ts, c.ts_known, c.seq, c.source, c.open, c.high, c.low,
               c.close, c.volume, c.quote_volume, c.buy_volume, c.trade_count, c.flags
        FROM {table} c
        WHERE c.ts >= $1 AND c.ts <= $2
          AND EXISTS (SELECT FROM stage_{table} s
                      WHERE s.instrument_id = c.instrument_id {and_timeframe} AND s.ts = c.ts AND s.source = c.source)
    ) u
) v
WHERE seq < newest
ON CONFLICT DO NOTHING;

-- name: merge_bars
INSERT INTO {table} AS c
SELECT DISTINCT ON (s.instrument_id, {key_timeframe} s.ts, s.source) s.*
FROM stage_{table} s
ORDER BY s.instrument_id, {key_timeframe} s.ts, s.source, s.seq DESC
ON CONFLICT (instrument_id, {conflict_timeframe} ts, source) DO UPDATE
SET ts_known = EXCLUDED.ts_known, seq = EXCLUDED.seq, open = EXCLUDED.open, high = EXCLUDED.high, low = EXCLUDED.low,
    close = EXCLUDED.close, volume = EXCLUDED.volume, quote_volume = EXCLUDED.quote_volume,
    buy_volume = EXCLUDED.buy_volume, trade_count = EXCLUDED.trade_count, flags = EXCLUDED.flags
WHERE c.seq < EXCLUDED.seq;
