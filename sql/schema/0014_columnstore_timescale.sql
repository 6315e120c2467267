-- marketd: profile=timescale
-- Old chunks become columns. Rows that are asked for together lie together (segmentby), in the order in which they are asked
-- for (orderby); each key's columns are in one of the two, so that a late row is looked for in one batch and not in all.
-- When a chunk is old enough, policies say, which follow the configuration (sql/policies.py).

ALTER TABLE trades SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id', timescaledb.orderby = 'ts_event DESC, trade_id DESC');
ALTER TABLE candles_1s SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id, source', timescaledb.orderby = 'ts DESC');
ALTER TABLE candles SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id, timeframe, source', timescaledb.orderby = 'ts DESC');
ALTER TABLE candle_versions SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id, timeframe, source', timescaledb.orderby = 'ts DESC, seq DESC');
ALTER TABLE book_snapshots SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id', timescaledb.orderby = 'ts_event DESC, seq DESC');
ALTER TABLE book_deltas SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id', timescaledb.orderby = 'ts_event DESC, seq DESC');
ALTER TABLE book_venues SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id', timescaledb.orderby = 'ts_event DESC, seq DESC');
ALTER TABLE imbalances SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id', timescaledb.orderby = 'ts_event DESC, seq DESC');
ALTER TABLE book_buckets SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id, timeframe', timescaledb.orderby = 'ts DESC, seq DESC');
ALTER TABLE activity_bars SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id', timescaledb.orderby = 'ts_event DESC, seq DESC');

-- Tables of series that were declared before; sql/series.py does it for new ones.
DO $$
DECLARE
    series text;
BEGIN
    FOR series IN SELECT table_name FROM partitioned_tables WHERE table_name LIKE 'series\_%' LOOP
        EXECUTE format('ALTER TABLE %I SET (timescaledb.enable_columnstore, timescaledb.segmentby = ''instrument_id'','
                       ' timescaledb.orderby = ''ts_event DESC, seq DESC'')', series);
    END LOOP;
END
$$;
