-- The id by which claims on the platform name this ledger, once it was opened by a version that has one.
CREATE TABLE identity (
    id TEXT NOT NULL
);

-- The ledger that has the claim on the storage folder of the watch, and its host: nothing is uploaded meanwhile.
ALTER TABLE watches ADD COLUMN other_ledger TEXT;
ALTER TABLE watches ADD COLUMN other_host TEXT;

-- The ledger from which the operator takes the storage folder over, until its daemon must have noticed that; '' from none.
-- And since when.
ALTER TABLE watches ADD COLUMN takes_over TEXT;
ALTER TABLE watches ADD COLUMN takes_over_since BIGINT NOT NULL DEFAULT 0;

-- The host whose daemon wants the storage folder of the watch and does not get it.
ALTER TABLE watches ADD COLUMN rival_host TEXT;
