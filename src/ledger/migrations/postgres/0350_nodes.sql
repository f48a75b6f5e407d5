-- Other processes than the active one upload as well.

-- Each of them. Times are milliseconds of this server's clock. Without its row, a process writes nothing.
CREATE TABLE nodes (
    -- A random number that it has chosen.
    id          TEXT COLLATE "C" PRIMARY KEY,
    host        TEXT NOT NULL,
    -- As in `lease`.
    life        TEXT COLLATE "C" NOT NULL,
    since       BIGINT NOT NULL,
    until       BIGINT NOT NULL,
    -- The number of its last transaction: `cluster` has that of the active process.
    last_commit BIGINT NOT NULL DEFAULT 0,
    -- The watches are about to change: it ends its uploads and gives them back.
    dismissed   BOOLEAN NOT NULL DEFAULT FALSE
);

-- Of a claimed job: the process that has it; NULL: the active one.
ALTER TABLE jobs ADD COLUMN node TEXT COLLATE "C";

-- A digest of the settings that the active process has for the watch. Another one uploads for it only with the same.
ALTER TABLE watches ADD COLUMN settings TEXT COLLATE "C";

-- By how many milliseconds the clock of the active process is ahead of this server's; it counts for all processes.
ALTER TABLE cluster ADD COLUMN clock_ahead BIGINT;

-- How often files were forgotten.
ALTER TABLE cluster ADD COLUMN forgotten BIGINT NOT NULL DEFAULT 0;

-- Storage folders that a process creates or has created. Two would create the same one twice.
CREATE TABLE created_folders (
    root_folder_id TEXT COLLATE "C" NOT NULL,
    -- The same for all paths that storage may treat as one.
    place          BYTEA NOT NULL,
    -- The process that creates it; '' for the active one. NULL: it has ended that.
    node           TEXT COLLATE "C",
    -- NULL as long as it is not known that it was created.
    folder_id      TEXT COLLATE "C",
    -- When the process gave up and it may have been created all the same.
    left_at        BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (root_folder_id, place)
);
