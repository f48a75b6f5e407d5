-- The lower-cased stem that the files of a set share, such as a shapefile and its companions. Files of one folder with
-- the same stem are a set: its masters have a connector, its companions have none. NULL: the file belongs to no set.
ALTER TABLE files ADD COLUMN set_stem BYTEA;
CREATE INDEX files_set ON files (watch_id, dir, set_stem) WHERE set_stem IS NOT NULL;
