-- Why nothing is uploaded or synchronized: no user is signed in. At most one row.
CREATE TABLE sign_in_wait (
    reason TEXT NOT NULL,
    hint   TEXT NOT NULL
);

-- What the owner of the connections of an iModel, a user, has to do: runs wait for that, or will soon.
ALTER TABLE imodel_facts ADD COLUMN owner_reason TEXT;
ALTER TABLE imodel_facts ADD COLUMN owner_hint TEXT;
ALTER TABLE imodel_facts ADD COLUMN owner_waits BIGINT NOT NULL DEFAULT 0;
