-- Checksums: each row's is a SHA-256 over the row and over the checksum of the row before (src/ledger/record.rs). Rows of before
-- get theirs when the ledger is opened.
ALTER TABLE runs ADD COLUMN spec_chain BLOB;
ALTER TABLE runs ADD COLUMN chain BLOB;
ALTER TABLE events ADD COLUMN chain BLOB;

-- One row, written together with the checksums of the rows of before: the ledger's own name, which its blob store knows.
CREATE TABLE identity (
    only_row INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    ledger   TEXT    NOT NULL
);
