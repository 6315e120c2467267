-- How far `marketd schema move` has come, in the database that it moves to: the same command goes on from here.

CREATE TABLE moved_pieces (
    table_name  text        NOT NULL,
    piece_start timestamptz NOT NULL,
    piece_end   timestamptz NOT NULL,
    source      text        NOT NULL,
    rows        bigint      NOT NULL,
    digest      text        NOT NULL,
    moved_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (table_name, piece_start)
);
COMMENT ON TABLE  moved_pieces             IS 'Stretches of tables that were moved here from another database, each verified; empty where nothing was moved.';
COMMENT ON COLUMN moved_pieces.table_name  IS 'Name of the table in this schema.';
COMMENT ON COLUMN moved_pieces.piece_start IS 'Begin of the stretch, inclusive.';
COMMENT ON COLUMN moved_pieces.piece_end   IS 'End of the stretch, exclusive.';
COMMENT ON COLUMN moved_pieces.source      IS 'The database that it comes from: its name, and when its schema was made.';
COMMENT ON COLUMN moved_pieces.rows        IS 'Rows of the stretch, here.';
COMMENT ON COLUMN moved_pieces.digest      IS 'What the source had there: sums of hashes. Another one later means that the stretch has changed.';
COMMENT ON COLUMN moved_pieces.moved_at    IS 'When it was moved.';
