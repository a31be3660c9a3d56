-- What each committed step came to, for the coordinator that takes steps back and for people who look at earlier ones: it keeps the
-- latest alone in memory. Rows may be deleted as those of snapshots and details may.
CREATE TABLE commits (
    run_id   TEXT COLLATE "C" NOT NULL REFERENCES runs (run_id),
    step     BIGINT NOT NULL,
    -- gavel_core::run::Commit as JSON: the step's figures, its policy, and whose result that is.
    result   TEXT   NOT NULL,
    -- SHA-256 over all of it.
    checksum BYTEA  NOT NULL,
    PRIMARY KEY (run_id, step)
);
