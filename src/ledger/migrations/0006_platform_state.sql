-- What the platform said of a storage file when our content was completed there. Compared with what it says later:
-- a difference means that somebody else changed the file.
ALTER TABLE files ADD COLUMN stored_modified TEXT;
ALTER TABLE files ADD COLUMN stored_modified_by TEXT;
ALTER TABLE files ADD COLUMN storage_folder_id TEXT;
-- The generation of the connection at which the stored content was completed. A run covers it from that generation on.
ALTER TABLE files ADD COLUMN stored_generation BIGINT NOT NULL DEFAULT 0;
-- 1: a task of a run has read the stored content, with the connector of the mapping, and succeeded.
ALTER TABLE files ADD COLUMN processed BIGINT NOT NULL DEFAULT 0;
-- 1: the storage file may hold other content than ours and must be compared before anything relies on it.
ALTER TABLE files ADD COLUMN unverified BIGINT NOT NULL DEFAULT 0;
-- How often somebody else changed the storage file since the local file last changed.
ALTER TABLE files ADD COLUMN overwrites BIGINT NOT NULL DEFAULT 0;
-- No local file stands for it: 'missing' (the last scan did not find it), 'gone' (confirmed by another scan),
-- 'deselected' (the configuration no longer selects it). NULL: it is there.
ALTER TABLE files ADD COLUMN absence TEXT;
ALTER TABLE files ADD COLUMN absent_since BIGINT;
UPDATE files SET processed = 1 WHERE outcome = 'synchronized';
CREATE INDEX files_source ON files (watch_id) WHERE connector IS NOT NULL AND storage_file_id IS NOT NULL;
CREATE INDEX files_absent ON files (watch_id, absence) WHERE absence IS NOT NULL;

-- The counts of the connector's report, for a result with issues.
ALTER TABLE results ADD COLUMN errors BIGINT;
ALTER TABLE results ADD COLUMN warnings BIGINT;
ALTER TABLE results ADD COLUMN others BIGINT;

-- The kind of a failure is one of a fixed set of words.
ALTER TABLE jobs RENAME COLUMN class TO kind;
UPDATE jobs SET kind = 'blocked' WHERE kind = 'refused_for_all';
-- Why the attempt before this one failed: it keeps the log from repeating itself, and is shown nowhere.
ALTER TABLE jobs ADD COLUMN previous_reason TEXT;

-- 1: the run took longer than sync.run_deadline, and that was reported.
ALTER TABLE runs ADD COLUMN overdue BIGINT NOT NULL DEFAULT 0;
-- When the source files of the connection were last compared with what they should be.
ALTER TABLE connections ADD COLUMN checked_at BIGINT NOT NULL DEFAULT 0;

-- A run that is not ours and keeps ours from starting.
CREATE TABLE blocking_runs (
    imodel_id  TEXT   PRIMARY KEY,
    run        TEXT   NOT NULL,
    -- The name of its connection, or its id if the name is not known.
    connection TEXT   NOT NULL,
    since      BIGINT NOT NULL,
    overdue    BIGINT NOT NULL DEFAULT 0
);

-- The root folder in which files were last found: an empty folder of another identity is an unmounted share.
ALTER TABLE watches ADD COLUMN root_identity TEXT;
