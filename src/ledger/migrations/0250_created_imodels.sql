-- iModels that the configuration names instead of giving their id.
CREATE TABLE created_imodels (
    -- Name and iTwin.
    imodel_key TEXT PRIMARY KEY,
    -- The platform's id, from its creation on, or from when it was found by its name.
    imodel_id  TEXT NOT NULL,
    -- It was initialized: files may go into it.
    ready      BIGINT NOT NULL DEFAULT 0
);
-- Why no job of the watch is claimed before its iModel is there, and what to do about it; NULL: it is there.
ALTER TABLE watches ADD COLUMN imodel_wait TEXT;
ALTER TABLE watches ADD COLUMN imodel_hint TEXT;
