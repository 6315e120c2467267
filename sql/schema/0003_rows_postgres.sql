-- marketd: profile=postgres
-- The large tables as native range partitions; sql/partitions.py makes the pieces as they are needed.

ALTER TABLE trades RENAME TO trades_columns;
CREATE TABLE trades (LIKE trades_columns INCLUDING ALL) PARTITION BY RANGE (ts_event);
DROP TABLE trades_columns;

ALTER TABLE candles_1s RENAME TO candles_1s_columns;
CREATE TABLE candles_1s (LIKE candles_1s_columns INCLUDING ALL) PARTITION BY RANGE (ts);
DROP TABLE candles_1s_columns;

ALTER TABLE candles RENAME TO candles_columns;
CREATE TABLE candles (LIKE candles_columns INCLUDING ALL) PARTITION BY RANGE (ts);
DROP TABLE candles_columns;

ALTER TABLE candle_versions RENAME TO candle_versions_columns;
CREATE TABLE candle_versions (LIKE candle_versions_columns INCLUDING ALL) PARTITION BY RANGE (ts);
DROP TABLE candle_versions_columns;
