-- A comment on every column of every view that has none yet. A view shows what a table has, in real numbers: one meaning a
-- name, and exceptions by view.

DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT v.relname, a.attname, coalesce(own.meaning, common.meaning) AS meaning
        FROM pg_class v
        JOIN pg_attribute a ON a.attrelid = v.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN (VALUES
            ('v_trades',         'trade_id',     'The venue''s id, or a 64-bit hash of it (flag 1).'),
            ('v_trades',         'side',         'The aggressor: +1 buy, -1 sell, 0 unknown.'),
            ('v_trades',         'flags',        '1 hashed id, 2 aggregate trade, 8 no market trade, 16 snapped to the grid.'),
            ('v_trades',         'ts_event',     'The venue''s time of the trade.'),
            ('v_candles',        'seq',          'Sequence number in the instrument; of a bar, the version.'),
            ('v_candles',        'timeframe',    'Length of the bar in seconds.'),
            ('v_candles',        'ts',           'Open time; the bar covers timeframe seconds from here, its end exclusive.'),
            ('v_candles',        'flags',        '1 not observed throughout, 2 ts_known reconstructed, 4 replaces an earlier version, 16 snapped to the grid.'),
            ('v_book_snapshots', 'flags',        '1 the best price jumped, 2 the state changed.'),
            ('v_book_snapshots', 'bid_price',    'Real prices of the bid levels, the best first.'),
            ('v_book_snapshots', 'ask_price',    'Real prices of the ask levels, the best first.'),
            ('v_book_snapshots', 'bid_size',     'What rests at each bid level.'),
            ('v_book_snapshots', 'ask_size',     'What rests at each ask level.'),
            ('v_book_deltas',    'price',        'Real price of the level that changed.'),
            ('v_book_deltas',    'size',         'What rests there from now on; 0: nothing.'),
            ('v_book_deltas',    'side',         '+1 a bid, -1 an ask; NULL where it is neither.'),
            ('v_book_deltas',    'flags',        '1 of a snapshot: the book begins anew with its first row, 2 the book left live here: no level.'),
            ('v_imbalances',     'ts_event',     'The end of the second.'),
            ('v_imbalances',     'reason',       'Why numbers are absent: 0 none is, 1 book not live, 2 no levels within the band, 3 a window is not full yet.'),
            ('v_imbalances',     'bid_size',     'Size of the bids within the band.'),
            ('v_imbalances',     'ask_size',     'Size of the asks within the band.'),
            ('v_book_buckets',   'timeframe',    '1 or 60 seconds.'),
            ('v_book_buckets',   'ts',           'Start; the row covers timeframe seconds from here, its end exclusive.'),
            ('v_book_buckets',   'flags',        'None yet: 0.'),
            ('v_book_buckets',   'bid_size',     'Time-weighted mean of what rested in the bucket of the mid, the one below it, …'),
            ('v_book_buckets',   'ask_size',     'Time-weighted mean of what rested in the bucket of the mid, the one above it, …'),
            ('v_activity_bars',  'ts_event',     'The newest time of its trades.'),
            ('v_activity_bars',  'ts_start',     'The oldest time of its trades.'),
            ('v_activity_bars',  'flags',        '1 trades may be missing in it, 4 closed before its threshold.'),
            ('v_annotations',    'ts_start',     'Begin of the stretch, inclusive.'),
            ('v_annotations',    'timeframe',    'Seconds of the bars of the chart that it was drawn on; 0 when it belongs to none.')
        ) AS own (view, name, meaning) ON own.view = v.relname AND own.name = a.attname
        LEFT JOIN (VALUES
            ('id',            'Number of the row.'),
            ('instrument_id', 'See instruments.'),
            ('venue',         'The instrument''s venue: BINANCE, COINBASE, …'),
            ('symbol',        'The venue''s own name of the instrument, such as BTCUSDT.'),
            ('base',          'What is traded, such as BTC.'),
            ('quote',         'What it is priced in, such as USDT.'),
            ('ts',            'Open time of the interval.'),
            ('ts_event',      'The venue''s time.'),
            ('ts_known',      'When marketd knew it.'),
            ('ts_end',        'End of the stretch, exclusive.'),
            ('seq',           'Sequence number in the instrument; the order of knowledge.'),
            ('sequence',      'The venue''s number of this state; NULL where it numbers nothing.'),
            ('timeframe',     'Length of the interval in seconds.'),
            ('source',        '1 own (made from trades), 2 the venue''s, 3 imported; sources never revise each other.'),
            ('state',         'The book''s: 0 empty, 1 syncing, 2 live, 3 stale.'),
            ('flags',         'As in the table.'),
            ('price',         'Real price.'),
            ('size',          'Real size.'),
            ('open',          'First price.'),
            ('high',          'Highest price.'),
            ('low',           'Lowest price.'),
            ('close',         'Last price.'),
            ('volume',        'Traded size.'),
            ('quote_volume',  'Sum of price times size.'),
            ('buy_volume',    'Of volume, what aggressors bought.'),
            ('trade_count',   'Number of trades.'),
            ('best_bid',      'Best bid price.'),
            ('best_ask',      'Best ask price.'),
            ('mid',           'The middle between best bid and best ask.'),
            ('spread',        'Best ask less best bid.'),
            ('weighted_mid',  'The mid, moved towards the side on which less rests.'),
            ('bid_count',     'Bid levels that are there.'),
            ('ask_count',     'Ask levels that are there.'),
            ('best_bid_size', 'What rests at the best bid.'),
            ('best_ask_size', 'What rests at the best ask.'),
            ('book_1s',       'Imbalance of the book, mean of 1 s, -1 to 1: positive when more is bid.'),
            ('book_5s',       'Imbalance of the book, mean of 5 s.'),
            ('book_15s',      'Imbalance of the book, mean of 15 s.'),
            ('book_60s',      'Imbalance of the book, mean of 60 s.'),
            ('volume_1s',     'Imbalance of what was traded in 1 s, -1 to 1: positive when buyers were the aggressors.'),
            ('volume_5s',     'Imbalance of what was traded in 5 s.'),
            ('volume_15s',    'Imbalance of what was traded in 15 s.'),
            ('volume_60s',    'Imbalance of what was traded in 60 s.'),
            ('width',         'Price of a bucket from end to end.'),
            ('base_price',    'The price at which the bucket of the mid begins.'),
            ('measure',       'What closes the bar: tick, volume or dollar.'),
            ('threshold',     'How much of it.'),
            ('label',         'What it is, in a word.'),
            ('text',          'What there is to say about it.'),
            ('author',        'The person or program that says so.'),
            ('payload',       'What the tool needs beside, as JSON.')
        ) AS common (name, meaning) ON common.name = a.attname
        WHERE v.relnamespace = 'marketd'::regnamespace AND v.relkind IN ('v', 'm')
          AND col_description(v.oid, a.attnum) IS NULL
    LOOP
        IF found.meaning IS NOT NULL THEN
            EXECUTE format('COMMENT ON COLUMN marketd.%I.%I IS %L', found.relname, found.attname, found.meaning);
        END IF;
    END LOOP;
END $$;
