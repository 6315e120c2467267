-- Bars that close by activity, without what differs between the profiles. As in 0002: order and width of the columns are
-- the contract with the row codec, everything is NOT NULL, an absent number is its type's minimum.

CREATE TABLE activity_bars (
    instrument_id int         NOT NULL,
    ts_event      timestamptz NOT NULL,
    ts_known      timestamptz NOT NULL,
    seq           bigint      NOT NULL,
    ts_start      timestamptz NOT NULL,
    threshold     bigint      NOT NULL,
    open          bigint      NOT NULL,
    high          bigint      NOT NULL,
    low           bigint      NOT NULL,
    close         bigint      NOT NULL,
    volume        bigint      NOT NULL,
    quote_volume  bigint      NOT NULL,
    buy_volume    bigint      NOT NULL,
    trade_count   bigint      NOT NULL,
    measure       int         NOT NULL,
    flags         int         NOT NULL
);
COMMENT ON COLUMN activity_bars.instrument_id IS 'See instruments.';
COMMENT ON COLUMN activity_bars.ts_event      IS 'The newest time of its trades.';
COMMENT ON COLUMN activity_bars.ts_known      IS 'When marketd knew it: when its last trade was accepted.';
COMMENT ON COLUMN activity_bars.seq           IS 'Sequence number in the instrument; the order in which the bars closed.';
COMMENT ON COLUMN activity_bars.ts_start      IS 'The oldest time of its trades.';
COMMENT ON COLUMN activity_bars.threshold     IS 'What closes it: trades (measure 1), at size_scale (2), at quote_scale (3).';
COMMENT ON COLUMN activity_bars.open          IS 'First price, at price_scale.';
COMMENT ON COLUMN activity_bars.high          IS 'Highest price, at price_scale.';
COMMENT ON COLUMN activity_bars.low           IS 'Lowest price, at price_scale.';
COMMENT ON COLUMN activity_bars.close         IS 'Last price, at price_scale.';
COMMENT ON COLUMN activity_bars.volume        IS 'Traded size, at size_scale.';
COMMENT ON COLUMN activity_bars.quote_volume  IS 'Sum of price times size, at quote_scale.';
COMMENT ON COLUMN activity_bars.buy_volume    IS 'Of volume, what aggressors bought, at size_scale.';
COMMENT ON COLUMN activity_bars.trade_count   IS 'Number of trades.';
COMMENT ON COLUMN activity_bars.measure       IS '1 tick (number of trades), 2 volume, 3 dollar (quote volume).';
COMMENT ON COLUMN activity_bars.flags         IS '1 trades may be missing in it, 4 closed before its threshold: one more trade would have left 64 bits.';

INSERT INTO partitioned_tables (table_name, time_column, width) VALUES ('activity_bars', 'ts_event', '7 days');
