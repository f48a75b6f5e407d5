-- Where the file belongs in storage, as a hash of its path there with case folded: of two local files that storage may
-- not tell apart only one has the place. NULL: it was not uploaded yet, or by a version that did not ask.
ALTER TABLE files ADD COLUMN place BYTEA;
CREATE UNIQUE INDEX files_place ON files (watch_id, place);

-- Hosts that asked to be left alone, so that a restart does not forget it.
CREATE TABLE pauses (
    host  TEXT   PRIMARY KEY,
    until BIGINT NOT NULL
);
