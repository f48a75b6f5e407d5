-- Why the platform does not have the settings that the configuration has for a connection or its iModel.
CREATE TABLE settings_faults (
    connection_id BIGINT PRIMARY KEY REFERENCES connections (id),
    reason        TEXT   NOT NULL,
    hint          TEXT
);
