//! Where a rubric set comes from.

use gavel_core::ids::Digest;
use serde::{Deserialize, Serialize};

use crate::generate::Settings;

/// Who or what wrote a set, from what.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// A person, or the model that generated it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Date, as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The labelled examples it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<String>,
    /// Anything else that a reader should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What generated it; none for a set written by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// What became of the examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// How the criteria came into themes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structuring: Option<Structuring>,
}

/// What a generated set depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Fingerprint of the model that wrote the criteria.
    pub author_sha256: Digest,
    /// The judge that verified them.
    pub judge: String,
    /// Its fingerprint, template included.
    pub judge_sha256: Digest,
    /// Fingerprint of prompts, pictures and labels.
    pub data_sha256: Digest,
    /// What the prompt templates are called.
    pub prompts: String,
    /// Fingerprint of their words.
    pub prompts_sha256: Digest,
    /// What turned criteria into vectors.
    pub embedding: String,
    /// Numbers that steer it.
    pub settings: Settings,
}

/// What became of the examples and of the criteria that were proposed for them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// Examples in the data; a pair of pictures or a scored picture counts as one.
    pub examples: usize,
    /// Examples that were worked on before new ones brought nothing new.
    pub examples_used: usize,
    /// Examples whose label the judge recovered.
    pub verified: usize,
    /// Examples whose criteria were dropped: the label was never recovered.
    pub dropped: usize,
    /// Of the dropped, those for which no readable criteria were written.
    pub unreadable: usize,
    /// Examples verified after so many revisions: at once, after one, and so on.
    pub verified_by_round: Vec<usize>,
    /// Different criteria of the verified examples.
    pub criteria_verified: usize,
    /// Those in the set.
    pub criteria_selected: usize,
    /// Coding rate of the verified criteria, in nats.
    pub coding_rate_verified: f64,
    /// Coding rate of the selected criteria, in nats.
    pub coding_rate_selected: f64,
}

/// How the criteria came into themes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Structuring {
    /// Times that the model was asked.
    pub asked: usize,
    /// Criteria that the taken answer left out; they were put beside the nearest theme, or into one of their own.
    pub lost: usize,
    /// Lines of it that are no criterion; they were dropped.
    pub invented: usize,
    /// Criteria that it named again; only the first place counts.
    pub doubled: usize,
    /// Themes beyond the number that was asked for; their criteria count as lost.
    pub surplus: usize,
}
