-- Hosts share the limits of requests to the platform, and the pauses that it requests.

-- Requests that processes may send, by the second of this server's clock in which they have drawn them.
CREATE TABLE drawn_requests (
    -- The host of the platform.
    host       TEXT COLLATE "C" NOT NULL,
    second     BIGINT NOT NULL,
    -- 0: a process wanted some and got none.
    count      BIGINT NOT NULL,
    -- When the last of them were drawn, in milliseconds; 0: none were.
    last_at    BIGINT NOT NULL,
    -- The smallest limits of the processes that wanted some.
    per_minute BIGINT NOT NULL,
    -- NULL: none of them has a limit.
    per_hour   BIGINT,
    PRIMARY KEY (host, second)
);

-- The times in `pauses` are those of this server's clock from now on. The ones before end within 15 minutes.
