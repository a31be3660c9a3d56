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
    /// How the criteria got their weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weighing: Option<Weighing>,
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

/// How criteria got their weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighing {
    /// Fingerprint of the words that were weighed, those that were dropped among them.
    pub rubric_sha256: Digest,
    /// The judge that was asked.
    pub judge: String,
    /// Its fingerprint, template included.
    pub judge_sha256: Digest,
    /// The labelled pairs.
    pub examples: String,
    /// Fingerprint of prompts, pictures and labels.
    pub data_sha256: Digest,
    /// Pairs that the weights were learnt from.
    pub pairs: usize,
    /// Pairs that could not be judged, and were left aside.
    pub failed: usize,
    /// What was multiplied with the sum of the weights.
    pub lambda: f64,
    /// Folds of the cross-validation that chose it; none where it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folds: Option<usize>,
    /// Loss on the pairs of folds that were left out, in nats for a pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out_log_loss: Option<f64>,
    /// Share of these pairs that lean to the better picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out_accuracy: Option<f64>,
    /// Loss on all pairs, in nats for a pair.
    pub log_loss: f64,
    /// Criteria that the set does not have any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<DroppedCriterion>,
}

/// A criterion that was left out of a set when its weights were learnt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DroppedCriterion {
    /// Its theme's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub theme: Option<String>,
    /// Its words.
    pub criterion: String,
    /// Why.
    pub why: WhyDropped,
}

/// Why a criterion was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhyDropped {
    /// No pair leans by it to either side.
    NeverTurnedOn,
    /// Its weight is 0: the others say what it says, or it leans to the worse pictures.
    NoWeight,
}
