-- References that were stored since a run, without reading every file of a watch.
CREATE INDEX files_references ON files (watch_id, stored_generation) WHERE connector IS NULL;
-- References that still have a source file.
CREATE INDEX files_demoted ON files (connection_id) WHERE connector IS NULL AND source_file_id IS NOT NULL;
