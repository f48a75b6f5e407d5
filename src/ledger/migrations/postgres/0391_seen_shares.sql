-- The watches whose share a process beside the active one sees: its folder is where that of the active host was.
CREATE TABLE seen_shares (
    node     TEXT COLLATE "C" NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    watch_id BIGINT NOT NULL,
    PRIMARY KEY (node, watch_id)
);
