-- Named versions that were created, for hooks.
CREATE TABLE created_versions (
    id           BIGINT PRIMARY KEY,
    imodel_id    TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    description  TEXT   NOT NULL,
    version_id   TEXT   NOT NULL,
    changeset_id TEXT   NOT NULL,
    -- The platform's id of the last run whose files it is about.
    run          TEXT,
    files        BIGINT NOT NULL,
    at           BIGINT NOT NULL
);
