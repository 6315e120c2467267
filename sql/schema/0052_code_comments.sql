-- Every code of a column is told where the column is told (tests/integration/sql/test_sql_comments.py holds it).

DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT of_table, name, meaning
        FROM (VALUES
            ('book_snapshots', 'flags',  '1 the best price jumped, 2 the state changed, 4 a producer''s own, 16 snapped to the grid, 32 all bids that the venue told, and there may be more, 64 asks likewise.'),
            ('book_deltas',    'flags',  '1 of a snapshot, 2 the book left live here: no level, 4 first row of a snapshot: the book begins anew, 8 last row of a message, 16 bids are known from this price on, 32 asks up to it; from bit 16 on: levels a side that the venue tells, 0 all.'),
            ('imbalances',     'reason', 'Why numbers are absent: 0 none is, 1 book not live, 2 no levels within the band, 3 a window is not full yet, 4 the band reaches beyond what the venue told.')
        ) AS told (of_table, name, meaning)
    LOOP
        EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', found.of_table, found.name, found.meaning);
        EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', 'v_' || found.of_table, found.name, found.meaning);
    END LOOP;
END $$;
