-- What became of this ledger when it was copied to the other engine: at most one row. Not part of a copy.
CREATE TABLE moved (
    -- The same at both ends of the copy.
    copy  TEXT COLLATE "C" NOT NULL,
    -- 1: the ledger continues at `place`. 0: this is the copy of the ledger at `place`, and is not finished.
    away  BIGINT NOT NULL,
    -- Directory and host, or database.
    place TEXT COLLATE "C" NOT NULL,
    at    BIGINT NOT NULL
);
