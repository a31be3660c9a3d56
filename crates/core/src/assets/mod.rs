//! The contents of the files that a run specification names.

mod check;
mod count;
mod prompt_rubrics;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ids::{Digest, PromptIndex};
use crate::work::{PromptPlace, Side, Task, TaskList, Unit};

pub use count::UnreadableAssets;
pub use prompt_rubrics::{PromptRubric, PromptRubrics};

/// Everything besides base weights that a run reads, so that a worker needs no file of the machine that submitted it. The pictures
/// and the adapter that it names are blobs ([`RunAssets::blobs`]), stored before the run is submitted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunAssets {
    /// Training prompts, one for each line of the file.
    pub prompts: Vec<Task>,
    /// Held-out prompts; empty in a run without evaluation.
    pub held_out: Vec<Task>,
    /// What people gave along with these tasks.
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
    /// What is asked about the pictures of each held-out prompt, to be answered by yes or no; empty in a run that asks nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub questions: Vec<Vec<String>>,
    /// What the judge reads as rubric, where a prompt has none of its own.
    pub rubric: RubricText,
    /// The prompts that are judged by a rubric of their own.
    #[serde(default, skip_serializing_if = "PromptRubrics::is_empty")]
    pub prompt_rubrics: PromptRubrics,
    /// The judge template file's text.
    pub template: String,
    /// The template's text of each member of a judge that is an ensemble.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub member_templates: Vec<String>,
    /// The text of `judge.reasons.template`; none where no reasons are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_template: Option<String>,
    /// The text of `judge.writer.template`; none where no rubrics are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer_template: Option<String>,
    /// What the held-out judge reads; none in a run without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_judge: Option<HeldOutJudgeAssets>,
    /// The adapter that policy 0 is, a blob in the form of `LoraAdapter::to_safetensors`; none where it is made fresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_adapter: Option<Digest>,
    /// Pairs with a known answer.
    pub labelled: Vec<LabelledPair>,
    /// The models that the submitter has in the spec's folders: every worker's must be the same.
    #[serde(default)]
    pub models: ModelFingerprints,
}

impl RunAssets {
    /// The keys of the spec whose files have other contents in `other`. Models that one side does not know are not compared.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let known =
            |before: Option<Digest>, now: Option<Digest>| before.zip(now).is_none_or(|(before, now)| before == now);
        let is_equal = [
            (
                "prompts.train",
                self.prompts == other.prompts && self.annotations.prompts == other.annotations.prompts,
            ),
            (
                "prompts.held_out",
                self.held_out == other.held_out
                    && self.annotations.held_out == other.annotations.held_out
                    && self.questions == other.questions,
            ),
            (
                "judge.rubric",
                self.rubric == other.rubric && self.prompt_rubrics == other.prompt_rubrics,
            ),
            ("judge.template", self.template == other.template),
            (
                "judge.members.template",
                self.member_templates == other.member_templates,
            ),
            ("judge.reasons.template", self.reason_template == other.reason_template),
            ("judge.writer.template", self.writer_template == other.writer_template),
            (
                "judge.held_out.rubric",
                self.held_out_rubrics() == other.held_out_rubrics(),
            ),
            (
                "judge.held_out.template",
                self.held_out_templates() == other.held_out_templates(),
            ),
            ("lora.init", self.initial_adapter == other.initial_adapter),
            ("evaluation.labelled", self.labelled == other.labelled),
            ("model.path", known(self.models.transformer, other.models.transformer)),
            ("judge.path", known(self.models.judge, other.models.judge)),
            (
                "judge.held_out.path",
                known(self.models.held_out_judge, other.models.held_out_judge),
            ),
            ("judge.writer.path", known(self.models.writer, other.models.writer)),
        ];
        is_equal
            .iter()
            .filter(|(_, is_equal)| !is_equal)
            .map(|(key, _)| *key)
            .collect()
    }

    /// The task that stands there.
    pub fn task(&self, place: PromptPlace) -> Option<&Task> {
        let index = place.index as usize;
        match place.list {
            TaskList::Prompts => self.prompts.get(index),
            TaskList::HeldOut => self.held_out.get(index),
            TaskList::Labelled => self.labelled.get(index).map(|pair| &pair.task),
        }
    }

    /// The fingerprint of the rubric of a unit's judge for tasks without one of their own.
    pub fn general_rubric(&self, unit: &Unit) -> Digest {
        self.rubrics(unit).0.digest
    }

    /// The fingerprint of the rubric that the run's files have for this task alone and a unit's judge: a blob.
    pub fn prompt_rubric(&self, unit: &Unit, task: &Task) -> Option<Digest> {
        self.rubrics(unit).1.of(task)
    }

    fn rubrics(&self, unit: &Unit) -> (&RubricText, &PromptRubrics) {
        let held_out = matches!(unit, Unit::HeldOutJudge { .. });
        let own = self.held_out_rubrics().filter(|_| held_out);
        own.unwrap_or((&self.rubric, &self.prompt_rubrics))
    }

    fn held_out_rubrics(&self) -> Option<(&RubricText, &PromptRubrics)> {
        let held_out = self.held_out_judge.as_ref()?;
        Some((&held_out.rubric, &held_out.prompt_rubrics))
    }

    fn held_out_templates(&self) -> Option<(&String, &Vec<String>)> {
        let held_out = self.held_out_judge.as_ref()?;
        Some((&held_out.template, &held_out.member_templates))
    }
}

/// What the held-out judge of a run reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOutJudgeAssets {
    /// Its rubric, where a prompt has none of its own.
    pub rubric: RubricText,
    /// The prompts that it judges by a rubric of their own.
    #[serde(default, skip_serializing_if = "PromptRubrics::is_empty")]
    pub prompt_rubrics: PromptRubrics,
    /// The text of its template file.
    pub template: String,
    /// The template's text of each of its members, if it is an ensemble.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub member_templates: Vec<String>,
}

/// What people gave along with the tasks of a run, by the task's index in its file; a task without any is not listed. It is kept
/// for whoever looks at the run: no sampler, judge or trainer sees it, so it changes no picture and no verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annotations {
    /// Of [`RunAssets::prompts`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prompts: BTreeMap<PromptIndex, Annotation>,
    /// Of [`RunAssets::held_out`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held_out: BTreeMap<PromptIndex, Annotation>,
}

impl Annotations {
    /// Whether nothing was given along with any task.
    pub fn is_empty(&self) -> bool {
        self.prompts.is_empty() && self.held_out.is_empty()
    }
}

/// What people gave along with one task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Annotation {
    /// What the edit should come to: a picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Digest>,
    /// What the edit may change: a picture, white on black, of the first source's size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Digest>,
    /// Every other field of the record, under the name that it has there.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

impl Annotation {
    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        self.target.is_none() && self.mask.is_none() && self.fields.is_empty()
    }
}

/// Fingerprints of the models that a run works with, as workers report them with their results. One that is not known is
/// taken from the first result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFingerprints {
    /// Of the diffusion transformer.
    pub transformer: Option<Digest>,
    /// Of the judge.
    pub judge: Option<Digest>,
    /// Of the held-out judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_judge: Option<Digest>,
    /// Of what writes rubrics, where it opens more than the judge: its model, its embedding and the judge that verifies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<Digest>,
}

/// A rubric's text with its fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RubricText {
    /// The text that becomes part of the judge's prompt.
    pub text: String,
    /// Its fingerprint, which every verdict repeats.
    pub digest: Digest,
}

impl RubricText {
    /// A rubric text with the SHA-256 of its bytes.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            digest: Digest::of(text.as_bytes()),
            text,
        }
    }
}

impl Default for RubricText {
    fn default() -> Self {
        Self::new("")
    }
}

/// Two pictures of one task, of which the better one is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelledPair {
    /// What both pictures were made from.
    #[serde(alias = "text")]
    pub task: Task,
    /// The first picture.
    pub first: Digest,
    /// The second picture.
    pub second: Digest,
    /// The better one.
    pub preferred: Side,
}
