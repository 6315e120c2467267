-- marketd: profile=postgres
-- As 0003: native range partitions; sql/partitions.py makes the pieces as they are needed.

ALTER TABLE activity_bars RENAME TO activity_bars_columns;
CREATE TABLE activity_bars (LIKE activity_bars_columns INCLUDING ALL) PARTITION BY RANGE (ts_event);
DROP TABLE activity_bars_columns;
