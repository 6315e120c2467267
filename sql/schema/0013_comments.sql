-- What older files said too briefly.
COMMENT ON COLUMN coverage.ts_end IS 'End of the stretch, exclusive; infinity where the end is not known yet.';
