-- New files by size: one of them may be a gone file under a new name.
CREATE INDEX files_new_size ON files (size) WHERE storage_file_id IS NULL;
