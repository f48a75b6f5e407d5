-- How many files of a watch are in each state, so that a report reads some rows and not every file. The triggers below are
-- part of each transaction that changes a file or its job, so no code can forget to count. They are SQLite's; all else is plain SQL.
CREATE TABLE counts (
    watch_id BIGINT NOT NULL,
    -- The state of the open job; empty: there is none.
    job      TEXT   NOT NULL,
    -- The outcome of the stored content; empty: there is none.
    outcome  TEXT   NOT NULL,
    -- 1: gone from the folder, or deselected.
    absent   BIGINT NOT NULL,
    -- 1: it was gone before it could be read.
    vanished BIGINT NOT NULL,
    -- 1: its failure was reported and is not over.
    reported BIGINT NOT NULL,
    files    BIGINT NOT NULL,
    PRIMARY KEY (watch_id, job, outcome, absent, vanished, reported)
);

-- One row: when a file was synchronized last.
CREATE TABLE last_success (
    id BIGINT PRIMARY KEY,
    at BIGINT NOT NULL
);

INSERT INTO counts (watch_id, job, outcome, absent, vanished, reported, files)
SELECT f.watch_id, COALESCE(j.state, ''), COALESCE(f.outcome, ''),
    CASE WHEN COALESCE(f.absence, 'missing') <> 'missing' THEN 1 ELSE 0 END,
    CASE WHEN f.size < 0 THEN 1 ELSE 0 END,
    CASE WHEN j.reported IS NOT NULL THEN 1 ELSE 0 END, COUNT(*)
FROM files f LEFT JOIN jobs j ON j.file_id = f.id GROUP BY 1, 2, 3, 4, 5, 6;

INSERT INTO last_success (id, at)
SELECT 1, MAX(outcome_at) FROM files
WHERE outcome IN ('synchronized', 'synchronized_with_issues') HAVING MAX(outcome_at) IS NOT NULL;

-- A new file has no job yet.
CREATE TRIGGER counts_new_file AFTER INSERT ON files BEGIN
    INSERT INTO counts (watch_id, job, outcome, absent, vanished, reported, files)
    VALUES (NEW.watch_id, '', COALESCE(NEW.outcome, ''), COALESCE(NEW.absence, 'missing') <> 'missing', COALESCE(NEW.size < 0, 0), 0, 1)
    ON CONFLICT (watch_id, job, outcome, absent, vanished, reported) DO UPDATE SET files = counts.files + 1;
END;

-- A file is deleted after its job.
CREATE TRIGGER counts_old_file AFTER DELETE ON files BEGIN
    UPDATE counts SET files = files - 1
    WHERE watch_id = OLD.watch_id AND job = '' AND outcome = COALESCE(OLD.outcome, '')
        AND absent = (COALESCE(OLD.absence, 'missing') <> 'missing') AND vanished = COALESCE(OLD.size < 0, 0) AND reported = 0;
END;

CREATE TRIGGER counts_changed_file AFTER UPDATE OF watch_id, outcome, absence, size ON files
WHEN OLD.watch_id IS NOT NEW.watch_id OR OLD.outcome IS NOT NEW.outcome
    OR (COALESCE(OLD.absence, 'missing') <> 'missing') <> (COALESCE(NEW.absence, 'missing') <> 'missing')
    OR COALESCE(OLD.size < 0, 0) <> COALESCE(NEW.size < 0, 0)
BEGIN
    UPDATE counts SET files = files - 1
    WHERE watch_id = OLD.watch_id AND job = COALESCE((SELECT state FROM jobs WHERE file_id = NEW.id), '')
        AND outcome = COALESCE(OLD.outcome, '') AND absent = (COALESCE(OLD.absence, 'missing') <> 'missing')
        AND vanished = COALESCE(OLD.size < 0, 0) AND reported = EXISTS (SELECT 1 FROM jobs WHERE file_id = NEW.id AND reported IS NOT NULL);
    INSERT INTO counts (watch_id, job, outcome, absent, vanished, reported, files)
    VALUES (NEW.watch_id, COALESCE((SELECT state FROM jobs WHERE file_id = NEW.id), ''), COALESCE(NEW.outcome, ''),
        COALESCE(NEW.absence, 'missing') <> 'missing', COALESCE(NEW.size < 0, 0),
        EXISTS (SELECT 1 FROM jobs WHERE file_id = NEW.id AND reported IS NOT NULL), 1)
    ON CONFLICT (watch_id, job, outcome, absent, vanished, reported) DO UPDATE SET files = counts.files + 1;
END;

CREATE TRIGGER counts_new_job AFTER INSERT ON jobs BEGIN
    UPDATE counts SET files = files - 1
    WHERE (watch_id, job, outcome, absent, vanished, reported) =
        (SELECT watch_id, '', COALESCE(outcome, ''), COALESCE(absence, 'missing') <> 'missing', COALESCE(size < 0, 0), 0
         FROM files WHERE id = NEW.file_id);
    INSERT INTO counts (watch_id, job, outcome, absent, vanished, reported, files)
    SELECT watch_id, COALESCE(NEW.state, ''), COALESCE(outcome, ''), COALESCE(absence, 'missing') <> 'missing', COALESCE(size < 0, 0),
        NEW.reported IS NOT NULL, 1
    FROM files WHERE id = NEW.file_id
    ON CONFLICT (watch_id, job, outcome, absent, vanished, reported) DO UPDATE SET files = counts.files + 1;
END;

CREATE TRIGGER counts_old_job AFTER DELETE ON jobs BEGIN
    UPDATE counts SET files = files - 1
    WHERE (watch_id, job, outcome, absent, vanished, reported) =
        (SELECT watch_id, COALESCE(OLD.state, ''), COALESCE(outcome, ''), COALESCE(absence, 'missing') <> 'missing', COALESCE(size < 0, 0),
         OLD.reported IS NOT NULL FROM files WHERE id = OLD.file_id);
    INSERT INTO counts (watch_id, job, outcome, absent, vanished, reported, files)
    SELECT watch_id, '', COALESCE(outcome, ''), COALESCE(absence, 'missing') <> 'missing', COALESCE(size < 0, 0), 0, 1
    FROM files WHERE id = OLD.file_id
    ON CONFLICT (watch_id, job, outcome, absent, vanished, reported) DO UPDATE SET files = counts.files + 1;
END;

CREATE TRIGGER counts_changed_job AFTER UPDATE OF state, reported ON jobs
WHEN OLD.state IS NOT NEW.state OR (OLD.reported IS NULL) <> (NEW.reported IS NULL)
BEGIN
    UPDATE counts SET files = files - 1
    WHERE (watch_id, job, outcome, absent, vanished, reported) =
        (SELECT watch_id, COALESCE(OLD.state, ''), COALESCE(outcome, ''), COALESCE(absence, 'missing') <> 'missing', COALESCE(size < 0, 0),
         OLD.reported IS NOT NULL FROM files WHERE id = NEW.file_id);
    INSERT INTO counts (watch_id, job, outcome, absent, vanished, reported, files)
    SELECT watch_id, COALESCE(NEW.state, ''), COALESCE(outcome, ''), COALESCE(absence, 'missing') <> 'missing', COALESCE(size < 0, 0),
        NEW.reported IS NOT NULL, 1
    FROM files WHERE id = NEW.file_id
    ON CONFLICT (watch_id, job, outcome, absent, vanished, reported) DO UPDATE SET files = counts.files + 1;
END;

CREATE TRIGGER last_success_of_file AFTER UPDATE OF outcome, outcome_at ON files
WHEN NEW.outcome IN ('synchronized', 'synchronized_with_issues') AND NEW.outcome_at IS NOT NULL
    AND (OLD.outcome IS NOT NEW.outcome OR OLD.outcome_at IS NOT NEW.outcome_at)
BEGIN
    INSERT INTO last_success (id, at) VALUES (1, NEW.outcome_at) ON CONFLICT (id) DO UPDATE SET at = excluded.at;
END;

-- What the lists of a report begin with.
CREATE INDEX jobs_failed ON jobs (state, failing_since DESC, file_id);
CREATE INDEX jobs_reported ON jobs (failing_since, file_id) WHERE reported IS NOT NULL;
CREATE INDEX jobs_oldest ON jobs (enqueued_at) WHERE state <> 'failed';
CREATE INDEX files_with_issues ON files (outcome_at, id) WHERE outcome = 'synchronized_with_issues';
CREATE INDEX runs_last ON runs (connection_id, id);
