-- Runs left the content out again and again: the next upload sends it, even if storage holds the same bytes.
ALTER TABLE files ADD COLUMN send_again BIGINT NOT NULL DEFAULT 0;
