-- The bulk change guard also suspends a watch when too many new files arrive.
ALTER TABLE watches ADD COLUMN new_files_limit BIGINT NOT NULL DEFAULT 1000;
-- Since when new files are counted, and how many have arrived since. NULL: any number of new files is expected, because
-- the watch has its first files, or because the operator has resumed it.
ALTER TABLE watches ADD COLUMN new_files_since BIGINT;
ALTER TABLE watches ADD COLUMN new_files BIGINT NOT NULL DEFAULT 0;
-- What the guard suspended the watch for: 'changed' or 'new'. Means nothing while bulk_change_files is 0.
ALTER TABLE watches ADD COLUMN bulk_change_kind TEXT NOT NULL DEFAULT 'changed';
