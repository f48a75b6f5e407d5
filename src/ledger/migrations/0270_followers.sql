-- A watch whose files go into several iModels is several watches here. The first one uploads; the others follow it: they
-- have the same storage files, so the id of a storage file is no longer unique. SQLite cannot drop a unique column.
ALTER TABLE watches ADD COLUMN follows BIGINT REFERENCES watches (id);

DROP INDEX files_content;
DROP INDEX files_new_size;
DROP INDEX files_target;
ALTER TABLE files RENAME COLUMN storage_file_id TO unused_storage_file_id;
ALTER TABLE files ADD COLUMN storage_file_id TEXT;
UPDATE files SET storage_file_id = unused_storage_file_id, unused_storage_file_id = NULL
WHERE unused_storage_file_id IS NOT NULL;

CREATE INDEX files_content ON files (watch_id, stored_size) WHERE storage_file_id IS NOT NULL;
CREATE INDEX files_new_size ON files (size) WHERE storage_file_id IS NULL;
CREATE INDEX files_target ON files (target_connection_id) WHERE storage_file_id IS NOT NULL;
CREATE UNIQUE INDEX files_storage_file ON files (storage_file_id, watch_id) WHERE storage_file_id IS NOT NULL;
CREATE INDEX watches_follows ON watches (follows) WHERE follows IS NOT NULL;
CREATE INDEX former_source_files_storage ON former_source_files (storage_file_id);
