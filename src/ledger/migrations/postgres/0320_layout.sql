-- A smaller layout, as in SQLite.

UPDATE files SET place = substring(place FROM 1 FOR 16) WHERE place IS NOT NULL;
DROP INDEX files_place;
CREATE UNIQUE INDEX files_place ON files (watch_id, place) WHERE place IS NOT NULL;

-- What became of each version of each file, as it is kept. Read the view `results` instead.
CREATE TABLE kept_results (
    id              BIGINT PRIMARY KEY,
    file_id         BIGINT NOT NULL REFERENCES files (id),
    version         BIGINT NOT NULL,
    outcome         BIGINT NOT NULL,
    at              BIGINT,
    millis          BIGINT NOT NULL,
    bytes           BIGINT NOT NULL,
    connector       TEXT COLLATE "C",
    storage_file_id TEXT COLLATE "C",
    run_id          BIGINT,
    run             TEXT COLLATE "C",
    reason          TEXT COLLATE "C",
    hint            TEXT COLLATE "C",
    errors          BIGINT,
    warnings        BIGINT,
    others          BIGINT,
    seen            BIGINT NOT NULL,
    uploaded_millis BIGINT
);

CREATE TEMPORARY TABLE steps_in_results ON COMMIT DROP AS
SELECT DISTINCT ON (r.id, s.step) s.id AS step_id, r.id AS result_id, s.step, s.at FROM steps s
JOIN (SELECT file_id, version, MIN(id) AS id FROM results GROUP BY file_id, version) first
    ON first.file_id = s.file_id AND first.version = s.version
JOIN results r ON r.id = first.id
WHERE s.id < r.id AND s.note IS NULL AND ((s.step = 'seen' AND s.at = r.at - r.millis) OR (s.step = 'uploaded' AND s.at <= r.at))
ORDER BY r.id, s.step, s.id DESC;

INSERT INTO kept_results (id, file_id, version, outcome, at, millis, bytes, connector, storage_file_id, run_id, run, reason,
    hint, errors, warnings, others, seen, uploaded_millis)
SELECT r.id, r.file_id, r.version,
    CASE r.outcome WHEN 'synchronized' THEN 0 WHEN 'synchronized_with_issues' THEN 1 WHEN 'uploaded' THEN 2
        WHEN 'unchanged' THEN 3 WHEN 'renamed' THEN 4 WHEN 'failed' THEN 5 WHEN 'vanished' THEN 6 END,
    CASE WHEN r.at <> (r.id >> 20) THEN r.at END, r.millis, r.bytes, r.connector,
    CASE WHEN r.storage_file_id IS NULL THEN '' WHEN r.storage_file_id IS DISTINCT FROM f.storage_file_id THEN r.storage_file_id END,
    u.id, CASE WHEN u.id IS NULL THEN r.run END, r.reason, r.hint, r.errors, r.warnings, r.others,
    CASE WHEN s.step_id IS NULL THEN 0 ELSE 1 END, r.at - p.at
FROM results r JOIN files f ON f.id = r.file_id
LEFT JOIN (SELECT MIN(id) AS id, platform_id FROM runs WHERE platform_id IS NOT NULL GROUP BY platform_id) u ON u.platform_id = r.run
LEFT JOIN steps_in_results s ON s.result_id = r.id AND s.step = 'seen'
LEFT JOIN steps_in_results p ON p.result_id = r.id AND p.step = 'uploaded';

DELETE FROM steps WHERE id IN (SELECT step_id FROM steps_in_results);
DROP INDEX steps_file;
ALTER TABLE steps DROP CONSTRAINT steps_pkey;
ALTER TABLE steps ADD PRIMARY KEY (file_id, id);

DROP TABLE results;
CREATE INDEX results_file ON kept_results (file_id, id);

CREATE VIEW results AS SELECT r.id, r.file_id, r.version,
    CASE r.outcome WHEN 0 THEN 'synchronized' WHEN 1 THEN 'synchronized_with_issues' WHEN 2 THEN 'uploaded'
        WHEN 3 THEN 'unchanged' WHEN 4 THEN 'renamed' WHEN 5 THEN 'failed' WHEN 6 THEN 'vanished' END AS outcome,
    COALESCE(r.at, r.id >> 20) AS at, r.millis, r.bytes, r.connector,
    NULLIF(COALESCE(r.storage_file_id, (SELECT f.storage_file_id FROM files f WHERE f.id = r.file_id)), '') AS storage_file_id,
    COALESCE(r.run, (SELECT u.platform_id FROM runs u WHERE u.id = r.run_id)) AS run,
    r.reason, r.hint, r.errors, r.warnings, r.others, r.run_id, r.seen, r.uploaded_millis
FROM kept_results r;

-- The file gets another storage file: that of its results stays.
CREATE FUNCTION keep_storage_file() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    UPDATE kept_results SET storage_file_id = OLD.storage_file_id WHERE file_id = OLD.id AND storage_file_id IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER storage_file_of_results AFTER UPDATE OF storage_file_id ON files FOR EACH ROW
WHEN (OLD.storage_file_id IS NOT NULL AND NEW.storage_file_id IS DISTINCT FROM OLD.storage_file_id)
EXECUTE FUNCTION keep_storage_file();

CREATE TABLE last_number (
    last BIGINT NOT NULL
);
INSERT INTO last_number (last) SELECT COALESCE(MAX(id), 0) FROM (SELECT MAX(id) AS id FROM files
UNION ALL SELECT MAX(id) FROM watches UNION ALL SELECT MAX(id) FROM connections) AS ids;
