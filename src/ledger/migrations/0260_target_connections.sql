-- A watch may have a connection for each connector type of its files.

-- The connections of each watch. A watch with one connection for all types has one row, with an empty connector.
-- watches.connection_id is the connection as the configuration names it; if that name has a placeholder for the
-- connector type, it only keeps the name, and the connections of the types that the files have are in this table.
CREATE TABLE watch_connections (
    watch_id      BIGINT NOT NULL REFERENCES watches (id),
    connector     TEXT   NOT NULL,
    connection_id BIGINT NOT NULL REFERENCES connections (id),
    PRIMARY KEY (watch_id, connector)
);
CREATE INDEX watch_connections_connection ON watch_connections (connection_id);
INSERT INTO watch_connections (watch_id, connector, connection_id) SELECT id, '', connection_id FROM watches;

-- The connection that the file belongs in, by its watch and its connector. NULL: it is stored only. connection_id is the
-- one that has its source file.
ALTER TABLE files ADD COLUMN target_connection_id BIGINT REFERENCES connections (id);
UPDATE files SET target_connection_id = (SELECT connection_id FROM watches WHERE watches.id = files.watch_id)
WHERE connector IS NOT NULL;
CREATE INDEX files_target ON files (target_connection_id) WHERE storage_file_id IS NOT NULL;
DROP INDEX files_source;

-- Files with a source file, by connection. A search for those that should have none reads them as well: they are few.
CREATE INDEX files_mapped ON files (connection_id) WHERE source_file_id IS NOT NULL;
DROP INDEX files_demoted;
