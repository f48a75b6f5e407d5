-- Failures with the same reason, apart from names, ids and numbers in it. A group without jobs is of no interest.
CREATE TABLE failure_groups (
    -- A digest of the kind of failure and the reason without what varies.
    id     TEXT PRIMARY KEY,
    -- The reason, with "…" for what differs between its files.
    reason TEXT NOT NULL,
    hint   TEXT
);

-- Means nothing on a job without a failure. NULL on a failure that an earlier version recorded, until the next start.
ALTER TABLE jobs ADD COLUMN failure_group TEXT;

-- Everything that a report says of a group.
CREATE INDEX jobs_failure_group ON jobs (failure_group, watch_id, state, failing_since, due_at, file_id)
WHERE kind IS NOT NULL AND reason IS NOT NULL;
