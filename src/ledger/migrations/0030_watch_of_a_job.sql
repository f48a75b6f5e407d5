-- The watch of each job, so that the next job of one watch is found without a look at those of all others.
ALTER TABLE jobs ADD COLUMN watch_id BIGINT NOT NULL DEFAULT 0;
UPDATE jobs SET watch_id = (SELECT watch_id FROM files WHERE files.id = jobs.file_id);
CREATE INDEX jobs_watch ON jobs (watch_id, state, due_at);
