-- Windows in which work may start, by local time.
-- Uploads of the watch wait for their window until then, in milliseconds; 0: they do not wait.
ALTER TABLE watches ADD COLUMN uploads_wait_until INTEGER NOT NULL DEFAULT 0;
-- A file of the watch has waited for that for too long.
ALTER TABLE watches ADD COLUMN uploads_wait_overdue INTEGER NOT NULL DEFAULT 0;
-- When the operator asked to synchronize what waits now, whatever the windows; NULL once that is done.
ALTER TABLE watches ADD COLUMN sync_requested_at INTEGER;
-- The same for the runs of an iModel.
ALTER TABLE imodel_facts ADD COLUMN run_waits_until INTEGER NOT NULL DEFAULT 0;
ALTER TABLE imodel_facts ADD COLUMN run_wait_overdue INTEGER NOT NULL DEFAULT 0;
