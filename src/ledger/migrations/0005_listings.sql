-- Folders that held just what files says when they were listed last, so that a scan need not read the row of each file:
-- a digest of each part of the listing. It goes with any change of what files says of that folder.
CREATE TABLE listings (
    watch_id BIGINT NOT NULL REFERENCES watches (id),
    dir      BYTEA  NOT NULL,
    part     BIGINT NOT NULL,
    digest   BYTEA  NOT NULL,
    PRIMARY KEY (watch_id, dir, part)
);
-- Raised by each such change: what was compared before it must not be written after it.
ALTER TABLE watches ADD COLUMN changes BIGINT NOT NULL DEFAULT 0;
