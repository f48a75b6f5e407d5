-- A smaller layout: row ids are SQLite's own row numbers, history has only what is not known from elsewhere.

-- SQLite cannot change tables in this way, so their content moves to new ones. First that of the tables that refer to others, so that
-- nothing refers to a table that is dropped. Triggers name tables, so they go first and are created again below.
DROP TRIGGER counts_new_file;
DROP TRIGGER counts_old_file;
DROP TRIGGER counts_changed_file;
DROP TRIGGER counts_new_job;
DROP TRIGGER counts_old_job;
DROP TRIGGER counts_changed_job;
DROP TRIGGER last_success_of_file;

-- As before; without a column that is no longer used, and each column where its meaning puts it.
CREATE TABLE new_files (
    id                     INTEGER PRIMARY KEY,
    watch_id               BIGINT NOT NULL REFERENCES watches (id),
    dir                    BYTEA  NOT NULL,
    name                   BYTEA  NOT NULL,
    size                   BIGINT NOT NULL,
    mtime_ns               BIGINT NOT NULL,
    ctime_ns               BIGINT NOT NULL,
    known                  BIGINT NOT NULL DEFAULT 1,
    connector              TEXT,
    version                BIGINT NOT NULL,
    set_stem               BYTEA,
    absence                TEXT,
    absent_since           BIGINT,
    -- 16 bytes of the hash.
    place                  BYTEA,
    storage_file_id        TEXT,
    adopted                BIGINT NOT NULL DEFAULT 0,
    stored_version         BIGINT,
    stored_digest          BYTEA,
    stored_size            BIGINT,
    stored_at              BIGINT,
    stored_generation      BIGINT NOT NULL DEFAULT 0,
    stored_modified        TEXT,
    stored_modified_by     TEXT,
    storage_folder_id      TEXT,
    unverified             BIGINT NOT NULL DEFAULT 0,
    overwrites             BIGINT NOT NULL DEFAULT 0,
    send_again             BIGINT NOT NULL DEFAULT 0,
    relocation             TEXT,
    target_connection_id   BIGINT REFERENCES connections (id),
    connection_id          BIGINT REFERENCES connections (id),
    source_file_id         TEXT,
    mapped_connector       TEXT,
    processed              BIGINT NOT NULL DEFAULT 0,
    outcome                TEXT,
    outcome_at             BIGINT,
    withdrawal             TEXT,
    withdrawal_generation  BIGINT NOT NULL DEFAULT 0,
    withdrawal_reason      TEXT,
    withdrawal_hint        TEXT,
    withdrawal_due         BIGINT NOT NULL DEFAULT 0,
    UNIQUE (watch_id, dir, name)
);
INSERT INTO new_files (id, watch_id, dir, name, size, mtime_ns, ctime_ns, known, connector, version, set_stem, absence,
    absent_since, place, storage_file_id, adopted, stored_version, stored_digest, stored_size, stored_at,
    stored_generation, stored_modified, stored_modified_by, storage_folder_id, unverified, overwrites, send_again,
    relocation, target_connection_id, connection_id, source_file_id, mapped_connector, processed, outcome, outcome_at,
    withdrawal, withdrawal_generation, withdrawal_reason, withdrawal_hint, withdrawal_due)
SELECT id, watch_id, dir, name, size, mtime_ns, ctime_ns, known, connector, version, set_stem, absence,
    absent_since, substr(place, 1, 16), storage_file_id, adopted, stored_version, stored_digest, stored_size, stored_at,
    stored_generation, stored_modified, stored_modified_by, storage_folder_id, unverified, overwrites, send_again,
    relocation, target_connection_id, connection_id, source_file_id, mapped_connector, processed, outcome, outcome_at,
    withdrawal, withdrawal_generation, withdrawal_reason, withdrawal_hint, withdrawal_due
FROM files ORDER BY id;

CREATE TABLE new_jobs (
    file_id         INTEGER PRIMARY KEY REFERENCES new_files (id),
    state           TEXT   NOT NULL,
    version         BIGINT NOT NULL,
    enqueued_at     BIGINT NOT NULL,
    due_at          BIGINT,
    attempts        BIGINT NOT NULL DEFAULT 0,
    run_attempts    BIGINT NOT NULL DEFAULT 0,
    failing_since   BIGINT,
    stage           TEXT   NOT NULL DEFAULT 'planned',
    stage_at        BIGINT NOT NULL DEFAULT 0,
    marker          TEXT,
    content_version BIGINT,
    content_digest  BYTEA,
    content_size    BIGINT,
    run_id          BIGINT REFERENCES runs (id),
    kind            TEXT,
    reason          TEXT,
    hint            TEXT,
    reported        TEXT,
    previous_reason TEXT,
    watch_id        BIGINT NOT NULL DEFAULT 0,
    pause           BIGINT NOT NULL DEFAULT 0,
    failure_group   TEXT,
    touched         BIGINT NOT NULL DEFAULT 0
);
INSERT INTO new_jobs (file_id, state, version, enqueued_at, due_at, attempts, run_attempts, failing_since, stage, stage_at,
    marker, content_version, content_digest, content_size, run_id, kind, reason, hint, reported, previous_reason,
    watch_id, pause, failure_group, touched)
SELECT file_id, state, version, enqueued_at, due_at, attempts, run_attempts, failing_since, stage, stage_at,
    marker, content_version, content_digest, content_size, run_id, kind, reason, hint, reported, previous_reason,
    watch_id, pause, failure_group, touched
FROM jobs ORDER BY file_id;
DROP TABLE jobs;

-- What became of each version of each file, as it is kept. Read the view `results` instead.
CREATE TABLE kept_results (
    id              INTEGER PRIMARY KEY,
    file_id         BIGINT NOT NULL REFERENCES new_files (id),
    version         BIGINT NOT NULL,
    -- A number for the word.
    outcome         BIGINT NOT NULL,
    -- NULL: the time in the id.
    at              BIGINT,
    millis          BIGINT NOT NULL,
    bytes           BIGINT NOT NULL,
    connector       TEXT,
    -- NULL: that of the file. Empty: there was none.
    storage_file_id TEXT,
    run_id          BIGINT,
    -- The platform's id of the run, if there is no row for it.
    run             TEXT,
    reason          TEXT,
    hint            TEXT,
    errors          BIGINT,
    warnings        BIGINT,
    others          BIGINT,
    -- 1: the version was handed over at `at - millis`, which is not in `steps` then.
    seen            BIGINT NOT NULL,
    -- It was uploaded so many milliseconds before the result, which is not in `steps` then.
    uploaded_millis BIGINT
);

-- The steps that almost every version has go into its first result, if they are the ones that the result is about.
CREATE TEMPORARY TABLE steps_in_results (step_id BIGINT PRIMARY KEY, result_id BIGINT NOT NULL, step TEXT NOT NULL, at BIGINT NOT NULL);
CREATE TEMPORARY TABLE first_results (file_id BIGINT, version BIGINT, id BIGINT, PRIMARY KEY (file_id, version)) WITHOUT ROWID;
INSERT INTO first_results (file_id, version, id) SELECT file_id, version, MIN(id) FROM results GROUP BY file_id, version;
INSERT INTO steps_in_results (step_id, result_id, step, at)
SELECT MAX(s.id), r.id, s.step, s.at FROM steps s JOIN first_results f ON f.file_id = s.file_id AND f.version = s.version
JOIN results r ON r.id = f.id
WHERE s.id < r.id AND s.note IS NULL AND ((s.step = 'seen' AND s.at = r.at - r.millis) OR (s.step = 'uploaded' AND s.at <= r.at))
GROUP BY r.id, s.step;
CREATE INDEX temp.steps_in_results_result ON steps_in_results (result_id, step);

INSERT INTO kept_results (id, file_id, version, outcome, at, millis, bytes, connector, storage_file_id, run_id, run, reason,
    hint, errors, warnings, others, seen, uploaded_millis)
SELECT r.id, r.file_id, r.version,
    CASE r.outcome WHEN 'synchronized' THEN 0 WHEN 'synchronized_with_issues' THEN 1 WHEN 'uploaded' THEN 2
        WHEN 'unchanged' THEN 3 WHEN 'renamed' THEN 4 WHEN 'failed' THEN 5 WHEN 'vanished' THEN 6 END,
    CASE WHEN r.at <> (r.id >> 20) THEN r.at END, r.millis, r.bytes, r.connector,
    CASE WHEN r.storage_file_id IS NULL THEN '' WHEN r.storage_file_id IS NOT f.storage_file_id THEN r.storage_file_id END,
    u.id, CASE WHEN u.id IS NULL THEN r.run END, r.reason, r.hint, r.errors, r.warnings, r.others,
    s.step_id IS NOT NULL, r.at - p.at
FROM results r JOIN files f ON f.id = r.file_id
LEFT JOIN (SELECT MIN(id) AS id, platform_id FROM runs WHERE platform_id IS NOT NULL GROUP BY platform_id) u ON u.platform_id = r.run
LEFT JOIN steps_in_results s ON s.result_id = r.id AND s.step = 'seen'
LEFT JOIN steps_in_results p ON p.result_id = r.id AND p.step = 'uploaded'
ORDER BY r.id;

CREATE TABLE new_steps (
    file_id BIGINT NOT NULL REFERENCES new_files (id),
    id      BIGINT NOT NULL,
    version BIGINT NOT NULL,
    at      BIGINT NOT NULL,
    step    TEXT   NOT NULL,
    note    TEXT,
    PRIMARY KEY (file_id, id)
) WITHOUT ROWID;
INSERT INTO new_steps (file_id, id, version, at, step, note)
SELECT file_id, id, version, at, step, note FROM steps WHERE id NOT IN (SELECT step_id FROM steps_in_results)
ORDER BY file_id, id;

DROP TABLE steps_in_results;
DROP TABLE first_results;
DROP TABLE steps;
DROP TABLE results;
DROP TABLE files;
ALTER TABLE new_files RENAME TO files;
ALTER TABLE new_jobs RENAME TO jobs;
ALTER TABLE new_steps RENAME TO steps;

-- What became of each version of each file.
CREATE VIEW results AS SELECT r.id, r.file_id, r.version,
    CASE r.outcome WHEN 0 THEN 'synchronized' WHEN 1 THEN 'synchronized_with_issues' WHEN 2 THEN 'uploaded'
        WHEN 3 THEN 'unchanged' WHEN 4 THEN 'renamed' WHEN 5 THEN 'failed' WHEN 6 THEN 'vanished' END AS outcome,
    COALESCE(r.at, r.id >> 20) AS at, r.millis, r.bytes, r.connector,
    NULLIF(COALESCE(r.storage_file_id, (SELECT f.storage_file_id FROM files f WHERE f.id = r.file_id)), '') AS storage_file_id,
    COALESCE(r.run, (SELECT u.platform_id FROM runs u WHERE u.id = r.run_id)) AS run,
    r.reason, r.hint, r.errors, r.warnings, r.others, r.run_id, r.seen, r.uploaded_millis
FROM kept_results r;

-- The file gets another storage file: that of its results stays.
CREATE TRIGGER storage_file_of_results AFTER UPDATE OF storage_file_id ON files
WHEN OLD.storage_file_id IS NOT NULL AND NEW.storage_file_id IS NOT OLD.storage_file_id
BEGIN
    UPDATE kept_results SET storage_file_id = OLD.storage_file_id WHERE file_id = OLD.id AND storage_file_id IS NULL;
END;

-- The last number that a watch, connection or file got as its id. They are small, because they are in many rows. None is
-- given out twice.
CREATE TABLE last_number (
    last BIGINT NOT NULL
);
INSERT INTO last_number (last) SELECT COALESCE(MAX(id), 0) FROM (SELECT MAX(id) AS id FROM files
UNION ALL SELECT MAX(id) FROM watches UNION ALL SELECT MAX(id) FROM connections) AS ids;

CREATE INDEX results_file ON kept_results (file_id);
CREATE INDEX jobs_due ON jobs (state, due_at);
CREATE INDEX jobs_run ON jobs (run_id);
CREATE INDEX jobs_watch ON jobs (watch_id, state, due_at);
CREATE INDEX jobs_failed ON jobs (state, failing_since DESC, file_id);
CREATE INDEX jobs_reported ON jobs (failing_since, file_id) WHERE reported IS NOT NULL;
CREATE INDEX jobs_oldest ON jobs (enqueued_at) WHERE state <> 'failed';
CREATE INDEX jobs_set ON jobs ((due_at - pause));
CREATE INDEX jobs_failure_group ON jobs (failure_group, watch_id, state, failing_since, due_at, file_id)
WHERE kind IS NOT NULL AND reason IS NOT NULL;
CREATE INDEX jobs_in_failure_group ON jobs (failure_group) WHERE failure_group IS NOT NULL;
CREATE UNIQUE INDEX files_place ON files (watch_id, place) WHERE place IS NOT NULL;
CREATE INDEX files_absent ON files (watch_id, absence) WHERE absence IS NOT NULL;
CREATE INDEX files_with_issues ON files (outcome_at, id) WHERE outcome = 'synchronized_with_issues';
CREATE INDEX files_set ON files (watch_id, dir, set_stem) WHERE set_stem IS NOT NULL;
CREATE INDEX files_references ON files (watch_id, stored_generation) WHERE connector IS NULL;
CREATE INDEX files_gone ON files (watch_id, withdrawal, absent_since) WHERE absence = 'gone';
CREATE INDEX files_withdrawal_refused ON files (watch_id) WHERE withdrawal_reason IS NOT NULL;
CREATE INDEX files_mapped ON files (connection_id) WHERE source_file_id IS NOT NULL;
CREATE INDEX files_content ON files (watch_id, stored_size) WHERE storage_file_id IS NOT NULL;
CREATE INDEX files_new_size ON files (size) WHERE storage_file_id IS NULL;
CREATE INDEX files_target ON files (target_connection_id) WHERE storage_file_id IS NOT NULL;
CREATE UNIQUE INDEX files_storage_file ON files (storage_file_id, watch_id) WHERE storage_file_id IS NOT NULL;

-- As before.
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

CREATE TRIGGER last_success_of_file AFTER UPDATE OF outcome, outcome_at ON files
WHEN NEW.outcome IN ('synchronized', 'synchronized_with_issues') AND NEW.outcome_at IS NOT NULL
    AND (OLD.outcome IS NOT NEW.outcome OR OLD.outcome_at IS NOT NEW.outcome_at)
BEGIN
    INSERT INTO last_success (id, at) VALUES (1, NEW.outcome_at) ON CONFLICT (id) DO UPDATE SET at = excluded.at;
END;
