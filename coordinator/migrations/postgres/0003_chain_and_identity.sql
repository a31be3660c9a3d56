-- Checksums: each row's is a SHA-256 over the row and over the checksum of the row before (src/ledger/record.rs). Rows of before
-- get theirs when the ledger is opened.
ALTER TABLE runs ADD COLUMN spec_chain BYTEA;
ALTER TABLE runs ADD COLUMN chain BYTEA;
ALTER TABLE events ADD COLUMN chain BYTEA;

-- One row, written together with the checksums of the rows of before: the ledger's own name, which its blob store knows.
CREATE TABLE identity (
    only_row BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (only_row),
    ledger   TEXT    NOT NULL
);
