-- What a coordinator must never forget: the same two tables as in SQLite, and who may write to them.

CREATE TABLE runs (
    -- "C" sorts by bytes, as SQLite does, whatever the database's own collation is.
    run_id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- RunSpec and RunAssets as JSON: what the run was asked to do, with the text of every file that its spec names.
    spec            TEXT   NOT NULL,
    assets          TEXT   NOT NULL,
    spec_sha256     TEXT   NOT NULL,
    created_unix_ms BIGINT NOT NULL
);

-- The accepted events of each run in order. Applying them to a new run gives the run's present state.
CREATE TABLE events (
    run_id     TEXT COLLATE "C" NOT NULL REFERENCES runs (run_id),
    -- 1, 2, 3, ... without a gap. The key also stops a second coordinator that writes to the same ledger.
    sequence   BIGINT NOT NULL,
    at_unix_ms BIGINT NOT NULL,
    kind       TEXT   NOT NULL,
    event      TEXT   NOT NULL,
    PRIMARY KEY (run_id, sequence)
);

-- One row: who leads. Each new leader raises the term, and every write names the term that it belongs to.
CREATE TABLE leadership (
    only_row      BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (only_row),
    term          BIGINT  NOT NULL,
    leader        TEXT    NOT NULL,
    since_unix_ms BIGINT  NOT NULL
);

INSERT INTO leadership (term, leader, since_unix_ms) VALUES (0, 'nobody yet', 0);
