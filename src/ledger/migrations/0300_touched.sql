-- Only the change time of the file differs from that of what is in storage: after a move of the folder to another file
-- system, or on another host. It is compared with storage, and no bulk change.
ALTER TABLE jobs ADD COLUMN touched BIGINT NOT NULL DEFAULT 0;
