-- The progress of an active run as it was seen last (JSON: it is read and written as a whole), and how long runs of its
-- iModel usually took when it was requested.
ALTER TABLE runs ADD COLUMN progress TEXT;
ALTER TABLE runs ADD COLUMN usual_ms BIGINT;
