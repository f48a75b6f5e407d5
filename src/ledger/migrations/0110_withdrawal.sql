-- Files that are gone from their folder are withdrawn from the platform, if their watch says so.

-- What happens to a file that is gone: 'keep', 'unmap' (its source file is removed) or 'remove' (its storage file too),
-- and after how many milliseconds.
ALTER TABLE watches ADD COLUMN on_delete TEXT NOT NULL DEFAULT 'keep';
ALTER TABLE watches ADD COLUMN delete_after BIGINT NOT NULL DEFAULT 0;
-- The guard: so many files may be gone at once; how many there were when it suspended the withdrawal, or 0, how many
-- were allowed then, and why ('bulk', 'empty', 'replaced'); up to how many the operator has approved.
ALTER TABLE watches ADD COLUMN deletion_limit BIGINT NOT NULL DEFAULT 0;
ALTER TABLE watches ADD COLUMN deletions_suspended BIGINT NOT NULL DEFAULT 0;
ALTER TABLE watches ADD COLUMN deletions_allowed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE watches ADD COLUMN deletions_cause TEXT;
ALTER TABLE watches ADD COLUMN deletions_approved BIGINT NOT NULL DEFAULT 0;
-- 1: the root was replaced by another folder, and files are gone since then.
ALTER TABLE watches ADD COLUMN root_replaced BIGINT NOT NULL DEFAULT 0;

-- How far the file is withdrawn: 'unmapping' (the request that removes its source file may have been sent), 'unmapped',
-- 'deleting' (the request that deletes its storage file may have been sent), 'deleted' (it is in the recycle bin),
-- 'restoring' (the operator wants it back), 'restored' (and it is not withdrawn again until its local file was there).
ALTER TABLE files ADD COLUMN withdrawal TEXT;
-- A run of this generation of the connection, or of a later one, was requested after the source file was removed.
ALTER TABLE files ADD COLUMN withdrawal_generation BIGINT NOT NULL DEFAULT 0;
-- Why the platform refused it, what to do about it, and when it is tried again.
ALTER TABLE files ADD COLUMN withdrawal_reason TEXT;
ALTER TABLE files ADD COLUMN withdrawal_hint TEXT;
ALTER TABLE files ADD COLUMN withdrawal_due BIGINT NOT NULL DEFAULT 0;
CREATE INDEX files_gone ON files (watch_id, withdrawal, absent_since) WHERE absence = 'gone';
CREATE INDEX files_withdrawal_refused ON files (watch_id) WHERE withdrawal_reason IS NOT NULL;
