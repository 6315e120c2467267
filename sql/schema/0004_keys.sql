-- What makes a row one and the same, newest first: "the last bar of each symbol" costs 0.6 ms with DESC and 5 s without.

CREATE UNIQUE INDEX trades_key          ON trades          (instrument_id, ts_event DESC, trade_id);
CREATE UNIQUE INDEX candles_1s_key      ON candles_1s      (instrument_id, ts DESC, source);
CREATE UNIQUE INDEX candles_key         ON candles         (instrument_id, timeframe, ts DESC, source);
CREATE UNIQUE INDEX candle_versions_key ON candle_versions (instrument_id, timeframe, ts DESC, source, seq);

COMMENT ON TABLE trades          IS 'Every trade once.';
COMMENT ON TABLE candles_1s      IS 'Bars of one second, in their newest version. Seconds without a trade have no row.';
COMMENT ON TABLE candles         IS 'Bars of one minute and longer, in their newest version.';
COMMENT ON TABLE candle_versions IS 'Versions of bars (of one second too) that a later one replaced: what was known before.';
