-- So many files that storage knows may be due at once; more of them hold the watch until a person lets it go on.
ALTER TABLE watches ADD COLUMN brake BIGINT NOT NULL DEFAULT 0;
-- How many there were when the watch was held for that; 0 when it is not.
ALTER TABLE watches ADD COLUMN braked BIGINT NOT NULL DEFAULT 0;
