-- Named versions that the service creates: one row per iModel for which the configuration requests them.
CREATE TABLE named_versions (
    imodel_id          TEXT   PRIMARY KEY,
    -- The last run that synchronized a file since, and whether it left files that were not synchronized.
    run_id             BIGINT NOT NULL DEFAULT 0,
    run                TEXT,
    partial            BIGINT NOT NULL DEFAULT 0,
    -- The named version that is about to be created, before the request is sent.
    intent_name        TEXT,
    intent_description TEXT,
    intent_changeset   TEXT,
    intent_run_id      BIGINT,
    intent_files       BIGINT,
    -- The last one that was created.
    name               TEXT,
    version_id         TEXT,
    named_at           BIGINT,
    files              BIGINT NOT NULL DEFAULT 0,
    -- Why the last attempt created none although it did not fail.
    note               TEXT,
    -- Why the last attempt failed.
    reason             TEXT,
    hint               TEXT,
    severe             BIGINT NOT NULL DEFAULT 0,
    -- What was refused for good: the configuration and the run.
    refused            TEXT
);

-- Files that were synchronized since the last named version of their iModel.
CREATE TABLE named_version_files (
    imodel_id TEXT   NOT NULL,
    file_id   BIGINT NOT NULL,
    run_id    BIGINT NOT NULL,
    at        BIGINT NOT NULL,
    PRIMARY KEY (imodel_id, file_id)
);
CREATE INDEX named_version_files_at ON named_version_files (imodel_id, at);
