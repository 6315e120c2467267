-- marketd: profile=postgres
-- PostgreSQL cannot unpack blocks, so the views of tables that are packed say what they do not show.

COMMENT ON VIEW v_trades         IS 'trades in real numbers, with the instrument''s names. Bound ts_event in every query. Rows only: what is packed (packed_blocks; [storage] pack) is shown by marketd query and the API.';
COMMENT ON VIEW v_candles        IS 'Bars of all timeframes in real numbers, with the instrument''s names. Bound ts in every query. Rows only: packed bars of one second (packed_blocks; [storage] pack) are shown by marketd query and the API.';
COMMENT ON VIEW v_book_snapshots IS 'book_snapshots in real numbers, with best prices, mid and spread. Bound ts_event in every query. Rows only: what is packed (packed_blocks; [storage] pack) is shown by marketd query and the API.';
COMMENT ON VIEW v_book_deltas    IS 'book_deltas in real numbers, with the instrument''s names. Bound ts_event in every query. Rows only: what is packed (packed_blocks; [storage] pack) is shown by marketd query and the API.';
COMMENT ON VIEW v_imbalances     IS 'imbalances in real numbers, each second in its newest version. Bound ts_event in every query. Rows only: what is packed (packed_blocks; [storage] pack) is shown by marketd query and the API.';
COMMENT ON VIEW v_book_buckets   IS 'book_buckets in real numbers, each interval in its newest version. Bound timeframe and ts in every query. Rows only: what is packed (packed_blocks; [storage] pack) is shown by marketd query and the API.';
COMMENT ON VIEW v_activity_bars  IS 'activity_bars in real numbers, with the instrument''s names. Bound ts_event in every query. Rows only: what is packed (packed_blocks; [storage] pack) is shown by marketd query and the API.';
