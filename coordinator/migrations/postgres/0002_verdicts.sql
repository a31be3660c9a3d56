-- Verdicts by what they depend on, so that nobody asks or pays twice. No run's state: rows may be deleted at any time.
CREATE TABLE verdicts (
    -- SHA-256, in hexadecimal, over judge, rubric, prompt and pictures.
    verdict_key TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- VerdictRecord as JSON.
    verdict     TEXT NOT NULL
);
