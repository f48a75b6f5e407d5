-- The spatial root: the file that an empty iModel gets first and alone, because it defines its coordinate system.
-- Why no file waits for one any more, for good: 'synchronized', 'changesets' (the iModel was not empty), 'released' (by
-- the operator). NULL: files may have to wait.
ALTER TABLE imodel_facts ADD COLUMN root_end TEXT;
-- What the other files of the iModel wait for, as shown: its path, and 'pending', 'missing' or 'failed'.
ALTER TABLE imodel_facts ADD COLUMN root_path TEXT;
ALTER TABLE imodel_facts ADD COLUMN root_state TEXT;
