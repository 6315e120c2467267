-- marketd: profile=postgres
-- As 0003: native range partitions; sql/partitions.py makes the pieces as they are needed.

ALTER TABLE book_snapshots RENAME TO book_snapshots_columns;
CREATE TABLE book_snapshots (LIKE book_snapshots_columns INCLUDING ALL) PARTITION BY RANGE (ts_event);
DROP TABLE book_snapshots_columns;

ALTER TABLE book_deltas RENAME TO book_deltas_columns;
CREATE TABLE book_deltas (LIKE book_deltas_columns INCLUDING ALL) PARTITION BY RANGE (ts_event);
DROP TABLE book_deltas_columns;

ALTER TABLE book_venues RENAME TO book_venues_columns;
CREATE TABLE book_venues (LIKE book_venues_columns INCLUDING ALL) PARTITION BY RANGE (ts_event);
DROP TABLE book_venues_columns;

ALTER TABLE imbalances RENAME TO imbalances_columns;
CREATE TABLE imbalances (LIKE imbalances_columns INCLUDING ALL) PARTITION BY RANGE (ts_event);
DROP TABLE imbalances_columns;

ALTER TABLE book_buckets RENAME TO book_buckets_columns;
CREATE TABLE book_buckets (LIKE book_buckets_columns INCLUDING ALL) PARTITION BY RANGE (ts);
DROP TABLE book_buckets_columns;
