-- Each transaction has a random number. A server that crashed gives the ids of transactions again that it lost, so they
-- do not say what became of one.

ALTER TABLE cluster ADD COLUMN last_commit BIGINT NOT NULL DEFAULT 0;

DROP FUNCTION begin_write();

-- Begins each transaction that writes: waits for all others, of any node. So they follow each other, as SQLite's do, and
-- none of them sees what another changes meanwhile. Returns the last id, and the number of the last transaction.
CREATE FUNCTION begin_write() RETURNS TABLE (last_id BIGINT, last_commit BIGINT) LANGUAGE plpgsql AS $$
BEGIN
    -- Any number that nothing else in this database uses.
    PERFORM pg_advisory_xact_lock(5784612270211);
    -- Each statement in a function that is not STABLE sees what was committed before it.
    RETURN QUERY SELECT c.last_id, c.last_commit FROM cluster c WHERE c.id = 1;
END $$;
