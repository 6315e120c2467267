-- marketd: profile=timescale
-- Longer bars that are old become columns, too. When, says the policy of the table that has stored bars of these timeframes
-- (sql/policies.py).

ALTER MATERIALIZED VIEW own_candles_1m SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id', timescaledb.orderby = 'ts DESC');
ALTER MATERIALIZED VIEW own_candles_5m SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id', timescaledb.orderby = 'ts DESC');
ALTER MATERIALIZED VIEW own_candles_15m SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id', timescaledb.orderby = 'ts DESC');
ALTER MATERIALIZED VIEW own_candles_1h SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id', timescaledb.orderby = 'ts DESC');
ALTER MATERIALIZED VIEW own_candles_4h SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id', timescaledb.orderby = 'ts DESC');
ALTER MATERIALIZED VIEW own_candles_1d SET (timescaledb.enable_columnstore,
    timescaledb.segmentby = 'instrument_id', timescaledb.orderby = 'ts DESC');
