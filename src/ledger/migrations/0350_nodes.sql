-- As in PostgreSQL, where several processes claim jobs: the one that has the job.
ALTER TABLE jobs ADD COLUMN node TEXT;

-- A digest of the settings of the watch.
ALTER TABLE watches ADD COLUMN settings TEXT;
