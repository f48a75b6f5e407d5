-- The first shape of the ledger. Plain SQL that SQLite and Postgres both take: ids are made by the program,
-- times are milliseconds since the Unix epoch, paths and digests are bytes.

CREATE TABLE connections (
    id          BIGINT PRIMARY KEY,
    imodel_id   TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    platform_id TEXT,
    -- Raised by every completed upload and every change of a source file; a run covers what was reached before its request.
    generation  BIGINT NOT NULL DEFAULT 0,
    covered     BIGINT NOT NULL DEFAULT 0,
    moved_at    BIGINT NOT NULL DEFAULT 0,
    UNIQUE (imodel_id, name)
);

CREATE TABLE watches (
    id             BIGINT PRIMARY KEY,
    name           TEXT   NOT NULL UNIQUE,
    imodel_id      TEXT   NOT NULL,
    storage_folder TEXT   NOT NULL,
    connection_id  BIGINT NOT NULL REFERENCES connections (id),
    -- No job of this watch is claimed before this time: its share hangs, or the platform refuses all of it.
    held_until     BIGINT NOT NULL DEFAULT 0,
    held_reason    TEXT,
    -- How the watch room sees the root, for status: 'ok', 'polled', 'degraded' or 'unavailable'.
    root_state     TEXT   NOT NULL DEFAULT 'ok',
    root_note      TEXT,
    scanned_at     BIGINT
);

-- What the platform is known to have for an iModel.
CREATE TABLE imodels (
    id             TEXT PRIMARY KEY,
    itwin_id       TEXT NOT NULL,
    root_folder_id TEXT NOT NULL
);

-- Storage folders that exist, so that no upload has to look for its folder again. path is relative to the root folder.
CREATE TABLE folders (
    root_folder_id TEXT NOT NULL,
    path           TEXT NOT NULL,
    folder_id      TEXT NOT NULL,
    PRIMARY KEY (root_folder_id, path)
);

CREATE TABLE runs (
    id            BIGINT PRIMARY KEY,
    connection_id BIGINT NOT NULL REFERENCES connections (id),
    generation    BIGINT NOT NULL,
    -- 'requested' (the answer is not known), 'active', 'ended'
    phase         TEXT   NOT NULL,
    platform_id   TEXT,
    requested_at  BIGINT NOT NULL,
    ended_at      BIGINT,
    state         TEXT,
    result        TEXT
);
CREATE INDEX runs_open ON runs (connection_id, phase);

CREATE TABLE files (
    id              BIGINT PRIMARY KEY,
    watch_id        BIGINT NOT NULL REFERENCES watches (id),
    dir             BYTEA  NOT NULL,
    name            BYTEA  NOT NULL,
    -- What the watch room last handed over. size < 0: nothing is known, any content counts as new.
    size            BIGINT NOT NULL,
    mtime_ns        BIGINT NOT NULL,
    ctime_ns        BIGINT NOT NULL,
    connector       TEXT,
    version         BIGINT NOT NULL,
    -- What storage holds.
    storage_file_id TEXT   UNIQUE,
    stored_version  BIGINT,
    stored_digest   BYTEA,
    stored_size     BIGINT,
    stored_at       BIGINT,
    -- How the iModel's connection knows it.
    connection_id    BIGINT REFERENCES connections (id),
    source_file_id   TEXT,
    mapped_connector TEXT,
    -- The outcome of the stored content; NULL while a run for it is still owed.
    outcome         TEXT,
    outcome_at      BIGINT,
    UNIQUE (watch_id, dir, name)
);

-- One row: bring this file to its newest version. It goes when that is done.
CREATE TABLE jobs (
    file_id        BIGINT PRIMARY KEY REFERENCES files (id),
    -- 'due', 'uploading', 'stored', 'running', 'failed'
    state          TEXT   NOT NULL,
    version        BIGINT NOT NULL,
    enqueued_at    BIGINT NOT NULL,
    -- When the next attempt may start. NULL on a failed job: not before its content or configuration changes, or a person asks.
    due_at         BIGINT,
    attempts       BIGINT NOT NULL DEFAULT 0,
    run_attempts   BIGINT NOT NULL DEFAULT 0,
    failing_since  BIGINT,
    -- How far an interrupted upload came: 'planned', 'create_sent', 'links_received', 'blob_written'
    stage          TEXT   NOT NULL DEFAULT 'planned',
    stage_at       BIGINT NOT NULL DEFAULT 0,
    marker         TEXT,
    -- What was acknowledged at stage 'blob_written', and the version of the file that it is.
    content_version BIGINT,
    content_digest BYTEA,
    content_size   BIGINT,
    run_id         BIGINT REFERENCES runs (id),
    class          TEXT,
    reason         TEXT,
    hint           TEXT,
    -- The reason of the last result that was written as failed, so that slow retries do not repeat it.
    reported       TEXT
);
CREATE INDEX jobs_due ON jobs (state, due_at);
CREATE INDEX jobs_run ON jobs (run_id);

-- What became of each version of each file.
CREATE TABLE results (
    id              BIGINT PRIMARY KEY,
    file_id         BIGINT NOT NULL REFERENCES files (id),
    version         BIGINT NOT NULL,
    outcome         TEXT   NOT NULL,
    at              BIGINT NOT NULL,
    millis          BIGINT NOT NULL,
    bytes           BIGINT NOT NULL,
    connector       TEXT,
    storage_file_id TEXT,
    run             TEXT,
    reason          TEXT,
    hint            TEXT
);
CREATE INDEX results_file ON results (file_id, at);
