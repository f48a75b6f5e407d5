-- A clock can be wrong and corrected at any time. A stored time counts only while it lies no further ahead than the pause
-- that it ends.

-- How far ahead due_at lay when it was set, in milliseconds.
ALTER TABLE jobs ADD COLUMN pause BIGINT NOT NULL DEFAULT 0;
UPDATE jobs SET pause = 900000 WHERE due_at IS NOT NULL AND reason IS NOT NULL;
-- When due_at was set: to find what was set by a clock that was ahead.
CREATE INDEX jobs_set ON jobs ((due_at - pause));
-- When held_until was set; 0 for a hold that no clock ends.
ALTER TABLE watches ADD COLUMN held_since BIGINT NOT NULL DEFAULT 0;
-- When the host asked for the pause.
ALTER TABLE pauses ADD COLUMN since BIGINT NOT NULL DEFAULT 0;
-- When the run was requested, by the platform's clock.
ALTER TABLE runs ADD COLUMN requested_there BIGINT;
