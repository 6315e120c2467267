-- What packing saves is a number that was measured when the rows went: afterwards nobody can.

ALTER TABLE packed_blocks ADD COLUMN bytes_before bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN packed_blocks.bytes_before IS 'What its rows took in their table with all indexes, measured when they were packed; 0: packed by a marketd that did not measure it.';
