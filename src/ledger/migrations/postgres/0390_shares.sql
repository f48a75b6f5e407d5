-- Where the folder of the watch is: type and source of its file system and the folder in it, with the host if that is
-- a local one. NULL: not known yet.
ALTER TABLE watches ADD COLUMN share TEXT COLLATE "C";

-- The folder that is there instead, if hardly a known file is in it: nothing is taken from it before the operator
-- accepts it.
ALTER TABLE watches ADD COLUMN other_share TEXT COLLATE "C";
