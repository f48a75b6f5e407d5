-- Jobs that were created for a run had no watch, so a search by watch did not find them.
UPDATE jobs SET watch_id = (SELECT watch_id FROM files WHERE files.id = jobs.file_id) WHERE watch_id = 0;
