//! How much is taken of what comes from outside. Each bound stands here once, with its reason; the configuration's checks, the
//! readers of messages and the coordinator's doors all ask here, so that `gavel config check` and a submission say the same.
//!
//! Bounds are for what arrives. What an earlier version has written to a ledger is read as it is.

mod figure;
mod text;

pub use figure::{FIGURE_MAX, is_figure};
pub use text::{InvalidName, cut, name};

/// The most that is taken of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Of what, in a few words.
    pub what: &'static str,
    /// The most that is taken.
    pub most: u64,
    /// What one of it is.
    pub unit: &'static str,
    /// Why this much.
    pub why: &'static str,
}

/// More than is taken of something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{at}`: {found} {}, at most {} are taken", bound.unit, bound.most)]
pub struct Exceeded {
    /// The key or field.
    pub at: String,
    /// How much of it came.
    pub found: u64,
    /// How much may come.
    pub bound: Bound,
}

impl crate::Hint for Exceeded {
    fn hint(&self) -> Option<String> {
        Some("docs/security.md lists every bound with its reason".into())
    }
}

impl Bound {
    /// Whether so much is taken.
    pub fn admits(&self, found: u64) -> bool {
        found <= self.most
    }

    /// Refuses what is more than is taken; `at` is the key or field.
    ///
    /// # Errors
    /// [`Exceeded`], with key, found and allowed.
    pub fn check(&self, at: &str, found: usize) -> Result<(), Exceeded> {
        let found = found as u64;
        match self.admits(found) {
            true => Ok(()),
            false => Err(Exceeded {
                at: at.to_owned(),
                found,
                bound: *self,
            }),
        }
    }
}

macro_rules! bounds {
    ($($constant:ident = $most:expr, $unit:literal, $what:literal: $why:literal;)*) => {
        $(
            #[doc = concat!("Most ", $unit, ": ", $what, ". ", $why)]
            pub const $constant: Bound = Bound {
                what: $what,
                most: $most,
                unit: $unit,
                why: $why,
            };
        )*

        /// All of them, for the documentation.
        pub const ALL: &[Bound] = &[$($constant),*];
    };
}

bounds! {
    STEPS = 10_000_000, "steps", "`run.steps`": "Far beyond any run; step numbers and sums over steps stay exact.";
    SEED = i64::MAX as u64, "", "`run.seed`": "A configuration file cannot say more, so that every run can be written as one.";
    PER_STEP = 16_384, "prompts", "`prompts.per_step`, and the prompts of a unit": "The coordinator holds every prompt of a step in memory.";
    MATCHES_PER_STEP = 131_072, "matches", "`prompts.per_step` times the matches of `sampling.candidates`": "The coordinator holds every verdict of a step in memory.";
    CANDIDATES = 1_000_000_000, "candidates", "a run's steps, prompts and candidates multiplied": "Counts over a whole run stay exact.";
    SEQUENCE = 8_192, "tokens", "`prompts.max_sequence_length`": "A worker allocates them for each prompt; text encoders read 512 to 1,024.";
    PIXELS = 67_108_864, "pixels", "`prompts.source_areas`": "As many as the largest picture that is sampled, 8192 x 8192.";
    RANK = 4_096, "", "`lora.rank`": "Wider than the layers of any family, where a low rank is none any more.";
    MODULES = 256, "names", "`lora.target_modules`": "A transformer has a dozen kinds of layers.";
    MEMBERS = 16, "members", "`judge.members`": "Each is a model that looks at each pair.";
    REQUESTS = 1_024, "requests", "`judge.concurrency`": "Each is an open connection of a judge worker.";
    ATTEMPTS = 1_000, "attempts", "`limits.attempts`, `limits.lost_leases`, `judge.attempts`": "What fails so often does not work.";
    TOKENS = 4_096, "tokens", "`judge.reasons.max_tokens`, `judge.writer.max_tokens`": "A reason is one sentence, a prompt's rubric some lines.";
    PROMPTS = 250_000, "prompts", "`prompts.train`": "The coordinator holds them in memory.";
    HELD_OUT = 20_000, "prompts", "`prompts.held_out`": "The coordinator holds them with two pictures and a verdict each.";
    LABELLED = 20_000, "pairs", "`evaluation.labelled`": "The coordinator holds them with a verdict each.";
    WORDS = 16_384, "bytes", "the words of a task": "Several times what any text encoder reads.";
    SOURCES = 16, "pictures", "the source pictures of a task": "Each is encoded into the sequence of one picture.";
    ANNOTATIONS = 500_000, "values", "what is given along with a run's tasks, beside words and pictures": "The coordinator holds each value in memory.";
    PROMPT_RUBRICS = 250_000, "prompts", "prompts with a rubric of their own": "As many as a run may have; the coordinator holds them in memory.";
    QUESTIONS = 400_000, "questions", "what is asked about the pictures of a run's held-out prompts": "The coordinator holds each with the answers about two pictures.";
    QUESTIONS_EACH = 256, "questions", "what is asked about one picture": "The answers are one event of the ledger.";
    QUESTION = 20_480, "bytes", "a question about a picture": "It may hold all the words of a task, and says what is asked of them.";
    NEAREST = 16, "pairs", "`judge.writer.nearest`": "A model is shown both pictures of each.";
    CRITERIA = 64, "criteria", "a prompt's own set of a rubric": "A judge reads them with every pair of that prompt.";
    DOCUMENT = 131_072, "bytes", "a rubric or a template": "A judge reads it with every pair.";
    FILES = 16 << 20, "bytes", "the texts of a run's files together": "Every worker fetches them, and the coordinator holds them in memory.";
    SPEC = 1 << 20, "bytes", "a specification as JSON": "The largest that passes its checks is far smaller.";
    LEASE = 16 << 20, "bytes", "what one unit hands to a worker": "It travels in one message.";
    VERDICTS = 4_096, "verdicts", "a judge's unit": "They are one event of the ledger.";
    KEPT = 65_536, "verdicts", "verdicts that are kept or recalled by one message": "Those of a unit, for each member of an ensemble.";
    VOTES = 64, "entries", "the votes or reasons of a verdict": "One for each member or theme.";
    WORKERS = 65_536, "workers", "workers that are registered at a time": "The coordinator holds each in memory.";
    ALLOTTED = 16_384, "blobs", "blobs that are to be written straight to the store": "With `--blobs-max` the coordinator holds room for each until it is seen, or a quarter of an hour.";
    HELD = 1_024, "blobs", "large blobs that one worker shares": "The coordinator holds their names in memory, 262144 of all workers together.";
    ADDRESS = 16_384, "bytes", "a signed address of a blob": "The store's signature and token stand in it.";
    RUN_NAME = 100, "bytes", "`run.name`": "It is the name of a folder.";
    NAME = 128, "bytes", "names of workers, hosts, devices, versions and judges": "They stand in every event and log line.";
    PATH = 4_096, "bytes", "paths and addresses": "As long as a path of the system may be.";
    REASON = 2_048, "bytes", "reasons and sentences; longer ones are cut": "They are for people, and stand in every status.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_names_key_found_and_allowed() {
        assert_eq!(RANK.check("lora.rank", 4_096), Ok(()));
        let refused = MODULES.check("lora.target_modules", 257).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "`lora.target_modules`: 257 names, at most 256 are taken"
        );
    }

    #[test]
    fn every_bound_is_in_the_documentation_with_its_value() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/security.md");
        let text = std::fs::read_to_string(file).unwrap();
        for Bound { what, most, unit, why } in ALL {
            let row = format!("| {what} | {most} {unit} | {why} |");
            let row = row.replace("  ", " ").replace(" | |", " |");
            assert!(text.contains(&row), "docs/security.md lacks the row\n{row}");
        }
    }
}
