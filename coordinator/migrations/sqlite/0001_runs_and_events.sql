-- What a coordinator must never forget. Types and statements are those that SQLite and PostgreSQL share.

CREATE TABLE runs (
    run_id          TEXT   NOT NULL PRIMARY KEY,
    -- RunSpec and RunAssets as JSON: what the run was asked to do, with the text of every file that its spec names.
    spec            TEXT   NOT NULL,
    assets          TEXT   NOT NULL,
    spec_sha256     TEXT   NOT NULL,
    created_unix_ms BIGINT NOT NULL
);

-- The accepted events of each run in order. Applying them to a new run gives the run's present state.
CREATE TABLE events (
    run_id     TEXT   NOT NULL REFERENCES runs (run_id),
    -- 1, 2, 3, ... without a gap. The key also stops a second coordinator that writes to the same ledger.
    sequence   BIGINT NOT NULL,
    at_unix_ms BIGINT NOT NULL,
    kind       TEXT   NOT NULL,
    event      TEXT   NOT NULL,
    PRIMARY KEY (run_id, sequence)
);
