-- Special values in other columns become columns of their own.

-- The triggers read files.size, which changes its meaning; they are created again below.
DROP TRIGGER counts_new_file;
DROP TRIGGER counts_old_file;
DROP TRIGGER counts_changed_file;
DROP TRIGGER counts_new_job;
DROP TRIGGER counts_old_job;
DROP TRIGGER counts_changed_job;

-- 1: size and times are those of the file that was handed over last. 0: nothing is known of it, any content counts as
-- new. That was a negative size.
ALTER TABLE files ADD COLUMN known BIGINT NOT NULL DEFAULT 1;
UPDATE files SET known = 0, size = 0 WHERE size < 0;
-- 1: the storage file was there before its first upload, with content of others. That was version 0.
ALTER TABLE files ADD COLUMN adopted BIGINT NOT NULL DEFAULT 0;
UPDATE files SET adopted = 1, stored_version = NULL WHERE stored_version = 0;

-- 1: the watch is in the configuration. 0 was a time at the end of the year 9999, as were a pause and a bulk change.
ALTER TABLE watches ADD COLUMN configured BIGINT NOT NULL DEFAULT 1;
UPDATE watches SET configured = 0 WHERE held_until >= 253402207200000;
UPDATE watches SET held_until = 0, held_since = 0, held_reason = NULL WHERE held_until >= 253402200000000;
-- Until when no job of the watch is claimed, for a cause that concerns all of it and passes.
ALTER TABLE watches RENAME COLUMN held_until TO backoff_until;
ALTER TABLE watches RENAME COLUMN held_since TO backoff_since;
ALTER TABLE watches RENAME COLUMN held_reason TO backoff_reason;
-- The bulk change guard: so many known files may be due at once; how many there were when it suspended the watch, or 0;
-- up to how many the operator has approved.
ALTER TABLE watches RENAME COLUMN brake TO bulk_change_limit;
ALTER TABLE watches RENAME COLUMN braked TO bulk_change_files;
ALTER TABLE watches RENAME COLUMN agreed TO bulk_change_approved;

-- As in the migration that introduced the counts, with known instead of a negative size.
CREATE TRIGGER counts_new_file AFTER INSERT ON files BEGIN
    INSERT INTO counts (watch_id, job, outcome, absent, vanished, reported, files)
    VALUES (NEW.watch_id, '', COALESCE(NEW.outcome, ''), COALESCE(NEW.absence, 'missing') <> 'missing', NEW.known = 0, 0, 1)
    ON CONFLICT (watch_id, job, outcome, absent, vanished, reported) DO UPDATE SET files = counts.files + 1;
END;

-- A file is deleted after its job.
CREATE TRIGGER counts_old_file AFTER DELETE ON files BEGIN
    UPDATE counts SET files = files - 1
    WHERE watch_id = OLD.watch_id AND job = '' AND outcome = COALESCE(OLD.outcome, '')
        AND absent = (COALESCE(OLD.absence, 'missing') <> 'missing') AND vanished = (OLD.known = 0) AND reported = 0;
END;

CREATE TRIGGER counts_changed_file AFTER UPDATE OF watch_id, outcome, absence, known ON files
WHEN OLD.watch_id IS NOT NEW.watch_id OR OLD.outcome IS NOT NEW.outcome
    OR (COALESCE(OLD.absence, 'missing') <> 'missing') <> (COALESCE(NEW.absence, 'missing') <> 'missing')
    OR (OLD.known = 0) <> (NEW.known = 0)
BEGIN
    UPDATE counts SET files = files - 1
    WHERE watch_id = OLD.watch_id AND job = COALESCE((SELECT state FROM jobs WHERE file_id = NEW.id), '')
        AND outcome = COALESCE(OLD.outcome, '') AND absent = (COALESCE(OLD.absence, 'missing') <> 'missing')
        AND vanished = (OLD.known = 0) AND reported = EXISTS (SELECT 1 FROM jobs WHERE file_id = NEW.id AND reported IS NOT NULL);
    INSERT INTO counts (watch_id, job, outcome, absent, vanished, reported, files)
    VALUES (NEW.watch_id, COALESCE((SELECT state FROM jobs WHERE file_id = NEW.id), ''), COALESCE(NEW.outcome, ''),
        COALESCE(NEW.absence, 'missing') <> 'missing', NEW.known = 0,
        EXISTS (SELECT 1 FROM jobs WHERE file_id = NEW.id AND reported IS NOT NULL), 1)
    ON CONFLICT (watch_id, job, outcome, absent, vanished, reported) DO UPDATE SET files = counts.files + 1;
END;

CREATE TRIGGER counts_new_job AFTER INSERT ON jobs BEGIN
    UPDATE counts SET files = files - 1
    WHERE (watch_id, job, outcome, absent, vanished, reported) =
        (SELECT watch_id, '', COALESCE(outcome, ''), COALESCE(absence, 'missing') <> 'missing', known = 0, 0
         FROM files WHERE id = NEW.file_id);
    INSERT INTO counts (watch_id, job, outcome, absent, vanished, reported, files)
    SELECT watch_id, COALESCE(NEW.state, ''), COALESCE(outcome, ''), COALESCE(absence, 'missing') <> 'missing', known = 0,
        NEW.reported IS NOT NULL, 1
    FROM files WHERE id = NEW.file_id
    ON CONFLICT (watch_id, job, outcome, absent, vanished, reported) DO UPDATE SET files = counts.files + 1;
END;

CREATE TRIGGER counts_old_job AFTER DELETE ON jobs BEGIN
    UPDATE counts SET files = files - 1
    WHERE (watch_id, job, outcome, absent, vanished, reported) =
        (SELECT watch_id, COALESCE(OLD.state, ''), COALESCE(outcome, ''), COALESCE(absence, 'missing') <> 'missing', known = 0,
         OLD.reported IS NOT NULL FROM files WHERE id = OLD.file_id);
    INSERT INTO counts (watch_id, job, outcome, absent, vanished, reported, files)
    SELECT watch_id, '', COALESCE(outcome, ''), COALESCE(absence, 'missing') <> 'missing', known = 0, 0, 1
    FROM files WHERE id = OLD.file_id
    ON CONFLICT (watch_id, job, outcome, absent, vanished, reported) DO UPDATE SET files = counts.files + 1;
END;

CREATE TRIGGER counts_changed_job AFTER UPDATE OF state, reported ON jobs
WHEN OLD.state IS NOT NEW.state OR (OLD.reported IS NULL) <> (NEW.reported IS NULL)
BEGIN
    UPDATE counts SET files = files - 1
    WHERE (watch_id, job, outcome, absent, vanished, reported) =
        (SELECT watch_id, COALESCE(OLD.state, ''), COALESCE(outcome, ''), COALESCE(absence, 'missing') <> 'missing', known = 0,
         OLD.reported IS NOT NULL FROM files WHERE id = NEW.file_id);
    INSERT INTO counts (watch_id, job, outcome, absent, vanished, reported, files)
    SELECT watch_id, COALESCE(NEW.state, ''), COALESCE(outcome, ''), COALESCE(absence, 'missing') <> 'missing', known = 0,
        NEW.reported IS NOT NULL, 1
    FROM files WHERE id = NEW.file_id
    ON CONFLICT (watch_id, job, outcome, absent, vanished, reported) DO UPDATE SET files = counts.files + 1;
END;

-- Jobs that were created for a run had no watch, so a search by watch did not find them.
UPDATE jobs SET watch_id = (SELECT watch_id FROM files WHERE files.id = jobs.file_id) WHERE watch_id = 0;
