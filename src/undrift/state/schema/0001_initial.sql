-- The first schema: the event log, projections of it, and jobs with leases.
CREATE TABLE event (
    seq         INTEGER PRIMARY KEY,
    kind        TEXT NOT NULL,
    subject     TEXT NOT NULL,
    at          INTEGER NOT NULL,        -- event time, microseconds since 1970 UTC
    idempotency TEXT UNIQUE,
    body        TEXT NOT NULL            -- the whole event as canonical JSON, hash included
);
CREATE INDEX event_subject ON event (subject, seq);
CREATE INDEX event_kind ON event (kind, seq);

CREATE TABLE projection (
    name  TEXT NOT NULL,
    key   TEXT NOT NULL,
    seq   INTEGER NOT NULL,              -- the event that wrote it last
    value TEXT NOT NULL,
    PRIMARY KEY (name, key)
);

CREATE TABLE job (
    id         TEXT PRIMARY KEY,
    kind       TEXT NOT NULL,
    key        TEXT NOT NULL UNIQUE,     -- idempotency: one job per key, ever
    payload    TEXT NOT NULL,
    state      TEXT NOT NULL,            -- ready | running | done | failed
    attempts   INTEGER NOT NULL DEFAULT 0,
    run_after  INTEGER NOT NULL,         -- wall clock, microseconds
    holder     TEXT,
    fence      INTEGER NOT NULL DEFAULT 0,
    expires_at INTEGER,                  -- wall clock, microseconds
    result     TEXT,
    error      TEXT
);
CREATE INDEX job_state ON job (state, run_after);

CREATE TABLE lease (
    name       TEXT PRIMARY KEY,
    holder     TEXT NOT NULL,
    fence      INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);

CREATE TABLE seen (
    id   TEXT PRIMARY KEY,               -- prediction or label ids already in the lake
    at   INTEGER NOT NULL                -- event time, microseconds, for forgetting old ones
) WITHOUT ROWID;

CREATE TABLE setting (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
