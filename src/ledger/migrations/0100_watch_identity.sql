-- The folder of a watch as the configuration had it last, as bytes: by it, a watch is recognized under another name.
-- NULL: not known.
ALTER TABLE watches ADD COLUMN path BYTEA;
-- How many of the files that the bulk change guard counted only get another name or folder in storage.
ALTER TABLE watches ADD COLUMN bulk_change_moves BIGINT NOT NULL DEFAULT 0;

-- Source files of ours that stay in an iModel into which their watch no longer puts files, because its imodel_id was
-- changed. They go when they are taken out, or when the watch goes into that iModel again.
CREATE TABLE former_source_files (
    connection_id   BIGINT NOT NULL REFERENCES connections (id),
    source_file_id  TEXT   NOT NULL,
    storage_file_id TEXT   NOT NULL,
    watch_id        BIGINT NOT NULL REFERENCES watches (id),
    dir             BYTEA  NOT NULL,
    name            BYTEA  NOT NULL,
    -- When the iModel of the watch was changed.
    since           BIGINT NOT NULL,
    PRIMARY KEY (connection_id, source_file_id)
);
CREATE INDEX former_source_files_watch ON former_source_files (watch_id);
