-- What a replay of events came to, so that nobody has to replay them again. The events are the truth: rows of both tables may be
-- deleted while no coordinator serves. The next one replays the events of a run that has no snapshot, and writes both anew.

-- The latest snapshot of each run's state: a coordinator that starts goes on after it.
CREATE TABLE snapshots (
    run_id     TEXT   NOT NULL PRIMARY KEY REFERENCES runs (run_id),
    -- The number, time and checksum of the last event in it.
    sequence   BIGINT NOT NULL,
    at_unix_ms BIGINT NOT NULL,
    chain      BLOB   NOT NULL,
    -- gavel_core::run::SNAPSHOT_VERSION, and Snapshot as JSON.
    version    BIGINT NOT NULL,
    state      TEXT   NOT NULL,
    -- SHA-256 over all of it.
    checksum   BLOB   NOT NULL
);

-- Candidates, verdicts and gradients of committed steps, for people who look at steps that the coordinator has let go of.
CREATE TABLE details (
    run_id   TEXT   NOT NULL REFERENCES runs (run_id),
    step     BIGINT NOT NULL,
    -- StepResult as JSON.
    result   TEXT   NOT NULL,
    -- SHA-256 over all of it.
    checksum BLOB   NOT NULL,
    PRIMARY KEY (run_id, step)
);
