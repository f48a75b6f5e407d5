-- What the people who run it see and do.

-- A person holds the watch until a person lets it go on; NULL when nobody does.
ALTER TABLE watches ADD COLUMN paused_at BIGINT;
-- So many files above the brake a person has agreed to upload anew.
ALTER TABLE watches ADD COLUMN agreed BIGINT NOT NULL DEFAULT 0;

-- How many files a run was to bring.
ALTER TABLE runs ADD COLUMN files BIGINT NOT NULL DEFAULT 0;

-- What happened to a version on its way; what became of it in the end is in results.
CREATE TABLE steps (
    id      BIGINT PRIMARY KEY,
    file_id BIGINT NOT NULL REFERENCES files (id),
    version BIGINT NOT NULL,
    at      BIGINT NOT NULL,
    -- 'seen', 'uploaded', 'put_off', 'asked'
    step    TEXT   NOT NULL,
    note    TEXT
);
CREATE INDEX steps_file ON steps (file_id, at);

-- What was told of by each alert and may still be true, so that a restart does not tell it again.
CREATE TABLE alerts (
    name TEXT PRIMARY KEY,
    memo TEXT NOT NULL
);
