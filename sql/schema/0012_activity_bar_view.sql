-- seq makes each bar one and the same: several may close with one trade. The view is as those of 0005.

CREATE UNIQUE INDEX activity_bars_key ON activity_bars (instrument_id, ts_event DESC, seq DESC);

COMMENT ON TABLE activity_bars IS 'Bars that closed after so many trades, so much volume or so much turnover ([activity_bars]). Never revised.';

CREATE VIEW v_activity_bars AS
SELECT b.instrument_id, i.venue, i.symbol, i.base, i.quote,
       CASE b.measure WHEN 1 THEN 'tick' WHEN 2 THEN 'volume' WHEN 3 THEN 'dollar' END AS measure,
       b.threshold::float8
           / 10::float8 ^ CASE b.measure WHEN 2 THEN i.size_scale WHEN 3 THEN i.quote_scale ELSE 0 END AS threshold,
       b.ts_start, b.ts_event, b.ts_known, b.seq,
       b.open::float8         / 10::float8 ^ i.price_scale AS open,
       b.high::float8         / 10::float8 ^ i.price_scale AS high,
       b.low::float8          / 10::float8 ^ i.price_scale AS low,
       b.close::float8        / 10::float8 ^ i.price_scale AS close,
       b.volume::float8       / 10::float8 ^ i.size_scale  AS volume,
       b.quote_volume::float8 / 10::float8 ^ i.quote_scale AS quote_volume,
       b.buy_volume::float8   / 10::float8 ^ i.size_scale  AS buy_volume,
       b.trade_count, b.flags
FROM activity_bars b
JOIN instruments i USING (instrument_id);

COMMENT ON VIEW v_activity_bars IS 'activity_bars in real numbers, with the instrument''s names. Bound ts_event in every query.';
