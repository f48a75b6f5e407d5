-- Which host is the active one: outside of the migrations, since only the active host migrates.
-- Times are milliseconds of this server's clock; those of hosts are never compared.
CREATE TABLE IF NOT EXISTS lease (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    -- A random number that the active process has chosen; NULL: nobody is active.
    holder TEXT,
    -- For people: the name of its host.
    host TEXT NOT NULL,
    -- Boot, device and inode of the lock file that the process has locked as long as it lives.
    life TEXT NOT NULL,
    since BIGINT NOT NULL,
    until BIGINT NOT NULL
);
INSERT INTO lease (id, host, life, since, until) VALUES (1, '', '', 0, 0) ON CONFLICT DO NOTHING;
