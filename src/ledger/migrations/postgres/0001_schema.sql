-- The ledger on PostgreSQL: the same tables, columns and indexes as the migrations of SQLite make, where each is
-- described. A test compares them. Texts are ordered by their bytes, as there, whatever the database's collation is.

CREATE TABLE connections (
    id                 BIGINT PRIMARY KEY,
    imodel_id          TEXT COLLATE "C" NOT NULL,
    name               TEXT COLLATE "C" NOT NULL,
    platform_id        TEXT COLLATE "C",
    generation         BIGINT NOT NULL DEFAULT 0,
    covered            BIGINT NOT NULL DEFAULT 0,
    moved_at           BIGINT NOT NULL DEFAULT 0,
    checked_at         BIGINT NOT NULL DEFAULT 0,
    source_files       BIGINT NOT NULL DEFAULT 0,
    other_source_files BIGINT NOT NULL DEFAULT 0,
    UNIQUE (imodel_id, name)
);

CREATE TABLE watches (
    id                   BIGINT PRIMARY KEY,
    name                 TEXT COLLATE "C" NOT NULL,
    imodel_id            TEXT COLLATE "C" NOT NULL,
    storage_folder       TEXT COLLATE "C" NOT NULL,
    connection_id        BIGINT NOT NULL REFERENCES connections (id),
    backoff_until        BIGINT NOT NULL DEFAULT 0,
    backoff_reason       TEXT COLLATE "C",
    root_state           TEXT COLLATE "C" NOT NULL DEFAULT 'ok',
    root_note            TEXT COLLATE "C",
    scanned_at           BIGINT,
    bulk_change_limit    BIGINT NOT NULL DEFAULT 0,
    bulk_change_files    BIGINT NOT NULL DEFAULT 0,
    paused_at            BIGINT,
    bulk_change_approved BIGINT NOT NULL DEFAULT 0,
    changes              BIGINT NOT NULL DEFAULT 0,
    root_identity        TEXT COLLATE "C",
    backoff_since        BIGINT NOT NULL DEFAULT 0,
    configured           BIGINT NOT NULL DEFAULT 1,
    path                 BYTEA,
    bulk_change_moves    BIGINT NOT NULL DEFAULT 0,
    on_delete            TEXT COLLATE "C" NOT NULL DEFAULT 'keep',
    delete_after         BIGINT NOT NULL DEFAULT 0,
    deletion_limit       BIGINT NOT NULL DEFAULT 0,
    deletions_suspended  BIGINT NOT NULL DEFAULT 0,
    deletions_allowed    BIGINT NOT NULL DEFAULT 0,
    deletions_cause      TEXT COLLATE "C",
    deletions_approved   BIGINT NOT NULL DEFAULT 0,
    root_replaced        BIGINT NOT NULL DEFAULT 0,
    uploads_wait_until   BIGINT NOT NULL DEFAULT 0,
    uploads_wait_overdue BIGINT NOT NULL DEFAULT 0,
    sync_requested_at    BIGINT,
    new_files_limit      BIGINT NOT NULL DEFAULT 1000,
    new_files_since      BIGINT,
    new_files            BIGINT NOT NULL DEFAULT 0,
    bulk_change_kind     TEXT COLLATE "C" NOT NULL DEFAULT 'changed',
    imodel_wait          TEXT COLLATE "C",
    imodel_hint          TEXT COLLATE "C",
    follows              BIGINT REFERENCES watches (id),
    UNIQUE (name)
);

CREATE TABLE imodels (
    id             TEXT COLLATE "C" PRIMARY KEY,
    itwin_id       TEXT COLLATE "C" NOT NULL,
    root_folder_id TEXT COLLATE "C" NOT NULL
);

CREATE TABLE folders (
    root_folder_id TEXT COLLATE "C" NOT NULL,
    path           TEXT COLLATE "C" NOT NULL,
    folder_id      TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (root_folder_id, path)
);

CREATE TABLE runs (
    id              BIGINT PRIMARY KEY,
    connection_id   BIGINT NOT NULL REFERENCES connections (id),
    generation      BIGINT NOT NULL,
    phase           TEXT COLLATE "C" NOT NULL,
    platform_id     TEXT COLLATE "C",
    requested_at    BIGINT NOT NULL,
    ended_at        BIGINT,
    state           TEXT COLLATE "C",
    result          TEXT COLLATE "C",
    files           BIGINT NOT NULL DEFAULT 0,
    overdue         BIGINT NOT NULL DEFAULT 0,
    requested_there BIGINT,
    progress        TEXT COLLATE "C",
    usual_ms        BIGINT
);

CREATE TABLE files (
    id                     BIGINT PRIMARY KEY,
    watch_id               BIGINT NOT NULL REFERENCES watches (id),
    dir                    BYTEA NOT NULL,
    name                   BYTEA NOT NULL,
    size                   BIGINT NOT NULL,
    mtime_ns               BIGINT NOT NULL,
    ctime_ns               BIGINT NOT NULL,
    connector              TEXT COLLATE "C",
    version                BIGINT NOT NULL,
    stored_version         BIGINT,
    stored_digest          BYTEA,
    stored_size            BIGINT,
    stored_at              BIGINT,
    connection_id          BIGINT REFERENCES connections (id),
    source_file_id         TEXT COLLATE "C",
    mapped_connector       TEXT COLLATE "C",
    outcome                TEXT COLLATE "C",
    outcome_at             BIGINT,
    place                  BYTEA,
    stored_modified        TEXT COLLATE "C",
    stored_modified_by     TEXT COLLATE "C",
    storage_folder_id      TEXT COLLATE "C",
    stored_generation      BIGINT NOT NULL DEFAULT 0,
    processed              BIGINT NOT NULL DEFAULT 0,
    unverified             BIGINT NOT NULL DEFAULT 0,
    overwrites             BIGINT NOT NULL DEFAULT 0,
    absence                TEXT COLLATE "C",
    absent_since           BIGINT,
    send_again             BIGINT NOT NULL DEFAULT 0,
    known                  BIGINT NOT NULL DEFAULT 1,
    adopted                BIGINT NOT NULL DEFAULT 0,
    set_stem               BYTEA,
    relocation             TEXT COLLATE "C",
    withdrawal             TEXT COLLATE "C",
    withdrawal_generation  BIGINT NOT NULL DEFAULT 0,
    withdrawal_reason      TEXT COLLATE "C",
    withdrawal_hint        TEXT COLLATE "C",
    withdrawal_due         BIGINT NOT NULL DEFAULT 0,
    target_connection_id   BIGINT REFERENCES connections (id),
    storage_file_id        TEXT COLLATE "C",
    UNIQUE (watch_id, dir, name)
);

CREATE TABLE jobs (
    file_id         BIGINT PRIMARY KEY REFERENCES files (id),
    state           TEXT COLLATE "C" NOT NULL,
    version         BIGINT NOT NULL,
    enqueued_at     BIGINT NOT NULL,
    due_at          BIGINT,
    attempts        BIGINT NOT NULL DEFAULT 0,
    run_attempts    BIGINT NOT NULL DEFAULT 0,
    failing_since   BIGINT,
    stage           TEXT COLLATE "C" NOT NULL DEFAULT 'planned',
    stage_at        BIGINT NOT NULL DEFAULT 0,
    marker          TEXT COLLATE "C",
    content_version BIGINT,
    content_digest  BYTEA,
    content_size    BIGINT,
    run_id          BIGINT REFERENCES runs (id),
    kind            TEXT COLLATE "C",
    reason          TEXT COLLATE "C",
    hint            TEXT COLLATE "C",
    reported        TEXT COLLATE "C",
    previous_reason TEXT COLLATE "C",
    watch_id        BIGINT NOT NULL DEFAULT 0,
    pause           BIGINT NOT NULL DEFAULT 0,
    failure_group   TEXT COLLATE "C",
    touched         BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE results (
    id              BIGINT PRIMARY KEY,
    file_id         BIGINT NOT NULL REFERENCES files (id),
    version         BIGINT NOT NULL,
    outcome         TEXT COLLATE "C" NOT NULL,
    at              BIGINT NOT NULL,
    millis          BIGINT NOT NULL,
    bytes           BIGINT NOT NULL,
    connector       TEXT COLLATE "C",
    storage_file_id TEXT COLLATE "C",
    run             TEXT COLLATE "C",
    reason          TEXT COLLATE "C",
    hint            TEXT COLLATE "C",
    errors          BIGINT,
    warnings        BIGINT,
    others          BIGINT
);

CREATE TABLE pauses (
    host  TEXT COLLATE "C" PRIMARY KEY,
    until BIGINT NOT NULL,
    since BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE steps (
    id      BIGINT PRIMARY KEY,
    file_id BIGINT NOT NULL REFERENCES files (id),
    version BIGINT NOT NULL,
    at      BIGINT NOT NULL,
    step    TEXT COLLATE "C" NOT NULL,
    note    TEXT COLLATE "C"
);

CREATE TABLE alerts (
    name TEXT COLLATE "C" PRIMARY KEY,
    memo TEXT COLLATE "C" NOT NULL
);

CREATE TABLE listings (
    watch_id BIGINT NOT NULL REFERENCES watches (id),
    dir      BYTEA NOT NULL,
    part     BIGINT NOT NULL,
    digest   BYTEA NOT NULL,
    PRIMARY KEY (watch_id, dir, part)
);

CREATE TABLE blocking_runs (
    imodel_id  TEXT COLLATE "C" PRIMARY KEY,
    run        TEXT COLLATE "C" NOT NULL,
    connection TEXT COLLATE "C" NOT NULL,
    since      BIGINT NOT NULL,
    overdue    BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE counts (
    watch_id BIGINT NOT NULL,
    job      TEXT COLLATE "C" NOT NULL,
    outcome  TEXT COLLATE "C" NOT NULL,
    absent   BIGINT NOT NULL,
    vanished BIGINT NOT NULL,
    reported BIGINT NOT NULL,
    files    BIGINT NOT NULL,
    PRIMARY KEY (watch_id, job, outcome, absent, vanished, reported)
);

CREATE TABLE last_success (
    id BIGINT PRIMARY KEY,
    at BIGINT NOT NULL
);

CREATE TABLE imodel_facts (
    imodel_id            TEXT COLLATE "C" PRIMARY KEY,
    foreign_source_files BIGINT NOT NULL DEFAULT 0,
    root_end             TEXT COLLATE "C",
    root_path            TEXT COLLATE "C",
    root_state           TEXT COLLATE "C",
    run_waits_until      BIGINT NOT NULL DEFAULT 0,
    run_wait_overdue     BIGINT NOT NULL DEFAULT 0,
    owner_reason         TEXT COLLATE "C",
    owner_hint           TEXT COLLATE "C",
    owner_waits          BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE sign_in_wait (
    reason TEXT COLLATE "C" NOT NULL,
    hint   TEXT COLLATE "C" NOT NULL
);

CREATE TABLE former_source_files (
    connection_id   BIGINT NOT NULL REFERENCES connections (id),
    source_file_id  TEXT COLLATE "C" NOT NULL,
    storage_file_id TEXT COLLATE "C" NOT NULL,
    watch_id        BIGINT NOT NULL REFERENCES watches (id),
    dir             BYTEA NOT NULL,
    name            BYTEA NOT NULL,
    since           BIGINT NOT NULL,
    PRIMARY KEY (connection_id, source_file_id)
);

CREATE TABLE named_versions (
    imodel_id          TEXT COLLATE "C" PRIMARY KEY,
    run_id             BIGINT NOT NULL DEFAULT 0,
    run                TEXT COLLATE "C",
    partial            BIGINT NOT NULL DEFAULT 0,
    intent_name        TEXT COLLATE "C",
    intent_description TEXT COLLATE "C",
    intent_changeset   TEXT COLLATE "C",
    intent_run_id      BIGINT,
    intent_files       BIGINT,
    name               TEXT COLLATE "C",
    version_id         TEXT COLLATE "C",
    named_at           BIGINT,
    files              BIGINT NOT NULL DEFAULT 0,
    note               TEXT COLLATE "C",
    reason             TEXT COLLATE "C",
    hint               TEXT COLLATE "C",
    severe             BIGINT NOT NULL DEFAULT 0,
    refused            TEXT COLLATE "C"
);

CREATE TABLE named_version_files (
    imodel_id TEXT COLLATE "C" NOT NULL,
    file_id   BIGINT NOT NULL,
    run_id    BIGINT NOT NULL,
    at        BIGINT NOT NULL,
    PRIMARY KEY (imodel_id, file_id)
);

CREATE TABLE created_versions (
    id           BIGINT PRIMARY KEY,
    imodel_id    TEXT COLLATE "C" NOT NULL,
    name         TEXT COLLATE "C" NOT NULL,
    description  TEXT COLLATE "C" NOT NULL,
    version_id   TEXT COLLATE "C" NOT NULL,
    changeset_id TEXT COLLATE "C" NOT NULL,
    run          TEXT COLLATE "C",
    files        BIGINT NOT NULL,
    at           BIGINT NOT NULL
);

CREATE TABLE settings_faults (
    connection_id BIGINT PRIMARY KEY REFERENCES connections (id),
    reason        TEXT COLLATE "C" NOT NULL,
    hint          TEXT COLLATE "C"
);

CREATE TABLE created_imodels (
    imodel_key TEXT COLLATE "C" PRIMARY KEY,
    imodel_id  TEXT COLLATE "C" NOT NULL,
    ready      BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE watch_connections (
    watch_id      BIGINT NOT NULL REFERENCES watches (id),
    connector     TEXT COLLATE "C" NOT NULL,
    connection_id BIGINT NOT NULL REFERENCES connections (id),
    PRIMARY KEY (watch_id, connector)
);

CREATE TABLE failure_groups (
    id     TEXT COLLATE "C" PRIMARY KEY,
    reason TEXT COLLATE "C" NOT NULL,
    hint   TEXT COLLATE "C",
    since  BIGINT NOT NULL
);

CREATE INDEX runs_open ON runs (connection_id, phase);
CREATE INDEX jobs_due ON jobs (state, due_at);
CREATE INDEX jobs_run ON jobs (run_id);
CREATE INDEX results_file ON results (file_id, at);
CREATE UNIQUE INDEX files_place ON files (watch_id, place);
CREATE INDEX steps_file ON steps (file_id, at);
CREATE INDEX files_absent ON files (watch_id, absence) WHERE absence IS NOT NULL;
CREATE INDEX jobs_watch ON jobs (watch_id, state, due_at);
CREATE INDEX jobs_failed ON jobs (state, failing_since DESC, file_id);
CREATE INDEX jobs_reported ON jobs (failing_since, file_id) WHERE reported IS NOT NULL;
CREATE INDEX jobs_oldest ON jobs (enqueued_at) WHERE state <> 'failed';
CREATE INDEX files_with_issues ON files (outcome_at, id) WHERE outcome = 'synchronized_with_issues';
CREATE INDEX runs_last ON runs (connection_id, id);
CREATE INDEX jobs_set ON jobs ((due_at - pause));
CREATE INDEX files_set ON files (watch_id, dir, set_stem) WHERE set_stem IS NOT NULL;
CREATE INDEX files_references ON files (watch_id, stored_generation) WHERE connector IS NULL;
CREATE INDEX former_source_files_watch ON former_source_files (watch_id);
CREATE INDEX files_gone ON files (watch_id, withdrawal, absent_since) WHERE absence = 'gone';
CREATE INDEX files_withdrawal_refused ON files (watch_id) WHERE withdrawal_reason IS NOT NULL;
CREATE INDEX named_version_files_at ON named_version_files (imodel_id, at);
CREATE INDEX watch_connections_connection ON watch_connections (connection_id);
CREATE INDEX files_mapped ON files (connection_id) WHERE source_file_id IS NOT NULL;
CREATE INDEX files_content ON files (watch_id, stored_size) WHERE storage_file_id IS NOT NULL;
CREATE INDEX files_new_size ON files (size) WHERE storage_file_id IS NULL;
CREATE INDEX files_target ON files (target_connection_id) WHERE storage_file_id IS NOT NULL;
CREATE UNIQUE INDEX files_storage_file ON files (storage_file_id, watch_id) WHERE storage_file_id IS NOT NULL;
CREATE INDEX watches_follows ON watches (follows) WHERE follows IS NOT NULL;
CREATE INDEX former_source_files_storage ON former_source_files (storage_file_id);
CREATE INDEX jobs_failure_group ON jobs (failure_group, watch_id, state, failing_since, due_at, file_id)
WHERE kind IS NOT NULL AND reason IS NOT NULL;
CREATE INDEX jobs_in_failure_group ON jobs (failure_group) WHERE failure_group IS NOT NULL;

-- How many files of a watch are in each state: counts and last_success follow each change of a file or its job.
CREATE FUNCTION count_file(watch BIGINT, of_job TEXT, of_outcome TEXT, is_absent BOOLEAN, is_vanished BOOLEAN,
    is_reported BOOLEAN, change BIGINT) RETURNS VOID LANGUAGE sql AS $$
    INSERT INTO counts AS c (watch_id, job, outcome, absent, vanished, reported, files)
    VALUES (watch, COALESCE(of_job, ''), COALESCE(of_outcome, ''), is_absent::INT, is_vanished::INT, is_reported::INT, change)
    ON CONFLICT (watch_id, job, outcome, absent, vanished, reported) DO UPDATE SET files = c.files + excluded.files
$$;

CREATE FUNCTION count_changed_file() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    of_job TEXT := '';
    is_reported BOOLEAN := FALSE;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        SELECT state, reported IS NOT NULL INTO of_job, is_reported FROM jobs WHERE file_id = NEW.id;
        is_reported := COALESCE(is_reported, FALSE);
    END IF;
    IF TG_OP <> 'INSERT' THEN
        PERFORM count_file(OLD.watch_id, of_job, OLD.outcome, COALESCE(OLD.absence, 'missing') <> 'missing',
            OLD.known = 0, is_reported, -1);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM count_file(NEW.watch_id, of_job, NEW.outcome, COALESCE(NEW.absence, 'missing') <> 'missing',
            NEW.known = 0, is_reported, 1);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION count_changed_job() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    f RECORD;
BEGIN
    SELECT watch_id, outcome, COALESCE(absence, 'missing') <> 'missing' AS is_absent, known = 0 AS is_vanished INTO f
    FROM files WHERE id = COALESCE(NEW.file_id, OLD.file_id);
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        PERFORM count_file(f.watch_id, '', f.outcome, f.is_absent, f.is_vanished, FALSE, -1);
    ELSE
        PERFORM count_file(f.watch_id, OLD.state, f.outcome, f.is_absent, f.is_vanished, OLD.reported IS NOT NULL, -1);
    END IF;
    IF TG_OP = 'DELETE' THEN
        PERFORM count_file(f.watch_id, '', f.outcome, f.is_absent, f.is_vanished, FALSE, 1);
    ELSE
        PERFORM count_file(f.watch_id, NEW.state, f.outcome, f.is_absent, f.is_vanished, NEW.reported IS NOT NULL, 1);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION note_last_success() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO last_success (id, at) VALUES (1, NEW.outcome_at) ON CONFLICT (id) DO UPDATE SET at = excluded.at;
    RETURN NULL;
END $$;

CREATE TRIGGER last_success_of_file AFTER UPDATE OF outcome, outcome_at ON files FOR EACH ROW
WHEN (NEW.outcome IN ('synchronized', 'synchronized_with_issues') AND NEW.outcome_at IS NOT NULL
    AND (OLD.outcome IS DISTINCT FROM NEW.outcome OR OLD.outcome_at IS DISTINCT FROM NEW.outcome_at))
EXECUTE FUNCTION note_last_success();

CREATE TRIGGER counts_new_file AFTER INSERT ON files FOR EACH ROW EXECUTE FUNCTION count_changed_file();
-- A file is deleted after its job.
CREATE TRIGGER counts_old_file AFTER DELETE ON files FOR EACH ROW EXECUTE FUNCTION count_changed_file();
CREATE TRIGGER counts_changed_file AFTER UPDATE OF watch_id, outcome, absence, known ON files FOR EACH ROW
WHEN (OLD.watch_id IS DISTINCT FROM NEW.watch_id OR OLD.outcome IS DISTINCT FROM NEW.outcome
    OR (COALESCE(OLD.absence, 'missing') <> 'missing') <> (COALESCE(NEW.absence, 'missing') <> 'missing')
    OR (OLD.known = 0) <> (NEW.known = 0))
EXECUTE FUNCTION count_changed_file();

CREATE TRIGGER counts_new_job AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION count_changed_job();
CREATE TRIGGER counts_old_job AFTER DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION count_changed_job();
CREATE TRIGGER counts_changed_job AFTER UPDATE OF state, reported ON jobs FOR EACH ROW
WHEN (OLD.state IS DISTINCT FROM NEW.state OR (OLD.reported IS NULL) <> (NEW.reported IS NULL))
EXECUTE FUNCTION count_changed_job();

-- What all nodes have in common: one row.
CREATE TABLE cluster (
    id      BIGINT PRIMARY KEY,
    -- The greatest id of a row that a node has given out: ids rise in the order of the transactions.
    last_id BIGINT NOT NULL
);
INSERT INTO cluster (id, last_id) VALUES (1, 0);

-- Begins each transaction that writes: waits for all others, of any node. So they follow each other, as SQLite's do, and
-- none of them sees what another changes meanwhile. Returns what is needed to ask for its end, and the last id.
CREATE FUNCTION begin_write() RETURNS TABLE (transaction_id TEXT, last_id BIGINT) LANGUAGE plpgsql AS $$
BEGIN
    -- Any number that nothing else in this database uses.
    PERFORM pg_advisory_xact_lock(5784612270211);
    -- Each statement in a function that is not STABLE sees what was committed before it.
    RETURN QUERY SELECT pg_current_xact_id()::TEXT, c.last_id FROM cluster c WHERE c.id = 1;
END $$;
