-- Source files at the last comparison with the platform: those of files of our watches, and others in the connection.
ALTER TABLE connections ADD COLUMN source_files BIGINT NOT NULL DEFAULT 0;
ALTER TABLE connections ADD COLUMN other_source_files BIGINT NOT NULL DEFAULT 0;
-- What is known of an iModel as a whole.
CREATE TABLE imodel_facts (
    imodel_id            TEXT PRIMARY KEY,
    -- Source files in connections that no watch uses, when they were read last.
    foreign_source_files BIGINT NOT NULL DEFAULT 0
);
