-- The local file was renamed or moved, and its storage file may not have the new name and folder yet: 'intended' (no
-- request was sent), 'sent' (storage had our content, and a request that changes name or folder may have been sent).
-- NULL: they are what they should be, or what storage accepts.
ALTER TABLE files ADD COLUMN relocation TEXT;
-- A new file may be a known one under a new name: searched by the size of its content.
CREATE INDEX files_content ON files (watch_id, stored_size) WHERE storage_file_id IS NOT NULL;
