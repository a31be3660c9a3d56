//! `[judge]`: who gives the verdicts, and by what.
//!
//! The keys that every judge has are fields of [`JudgeSpec`]; those that only one kind of judge has are fields of that kind,
//! which is a variant of [`JudgeBackEnd`]. In the file both stand side by side in one table, and `family` says which kind it is.

mod address;
mod asking;
mod back_end;
mod clip;
mod connection;
mod embedding;
mod ensemble;
mod evaluator;
mod held_out;
mod in_process;
mod reasons;
mod schema;
mod scorer;
mod server;
mod table;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Table;

use super::device::Device;
use super::problems::Problems;
use super::section::Section;
use crate::bounds;
pub use address::{ServerAddress, ServerAddressError};
pub use asking::{AdaptiveOrders, OrdersRule};
pub use back_end::{HostedModel, JudgeBackEnd};
pub use clip::{ClipFamily, ClipSpec};
pub use connection::Connection;
pub use embedding::{EmbeddingServerSpec, EmbeddingSpec, TextEncoderFamily, TextEncoderSpec};
pub use ensemble::{EnsembleFamily, EnsembleSpec, MemberSpec, Tally};
pub use evaluator::{EvaluatorFamily, EvaluatorSpec};
pub use held_out::HeldOutJudgeSpec;
pub use in_process::{InProcessFamily, InProcessSpec};
pub use reasons::ReasonsSpec;
pub use scorer::{ScorerFamily, ScorerSpec};
pub use server::{ServerFamily, ServerSpec};
use table::Leftovers;
#[cfg(test)]
pub(super) use table::{defaults, embedding_keys, writer_keys};
pub use writer::{Combine, WriterSpec};

/// `[judge]`: judge, template and rubric.
//
// `remote = "Self"` makes serde derive functions for the common keys alone; the traits below add those of the back end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = schema::of_a_judge)]
pub struct JudgeSpec {
    /// The prompt template around pair, prompt and rubric.
    pub template: PathBuf,
    /// The rubric set: TOML, or a bare text of criteria.
    pub rubric: PathBuf,
    /// The judge abstains when the mean probability is closer than this to one half.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub margin: f64,
    /// Pairs that a judge leases at a time.
    #[schemars(range(min = 1, max = bounds::PER_STEP.most))]
    pub batch: u32,
    /// Whether verdicts are kept and not asked for twice; `None` does so where the judge or a member is a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<bool>,
    /// In how many image orders a step's pairs are asked.
    #[serde(skip_serializing_if = "OrdersRule::is_both")]
    pub orders: OrdersRule,
    /// The greatest share of pairs whose two image orders disagree, at which one order is enough; left out, 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub orders_trust: Option<f64>,
    /// The committed steps over which that share is counted; left out, 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = bounds::ATTEMPTS.most))]
    pub orders_window: Option<u32>,
    /// Share of a step's prompts that are asked in both orders all the same, so that trust can be lost; left out, 0.125.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub orders_recheck: Option<f64>,
    /// How far apart the pictures of a step's pair must be for the judge to be asked about it: the mean absolute difference of
    /// their RGB values, in (0, 1]; every pair is asked about without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub min_distance: Option<f64>,
    /// Which pairs are explained to people; none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasons: Option<ReasonsSpec>,
    /// Who writes a rubric for each prompt, and how; none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer: Option<WriterSpec>,
    /// Another judge, which watches this one; none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<Box<HeldOutJudgeSpec>>,
    /// What answers, with the keys that only its kind has.
    #[serde(skip)]
    pub back_end: JudgeBackEnd,
}

/// What a run has a judge, or the model of one, for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// What it prefers is rewarded.
    Judge,
    /// It watches that one.
    HeldOutJudge,
    /// It writes the rubrics of single prompts, and gives no verdict.
    RubricWriter,
}

/// A judge, a member of one, or what writes for one, and where the configuration says so.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedJudge<'a, Spec = JudgeBackEnd> {
    /// What it is there for; of a member, what the ensemble is there for.
    pub duty: Duty,
    /// Its index among an ensemble's members.
    pub member: Option<usize>,
    /// Its keys.
    pub spec: &'a Spec,
}

impl<'a, Spec> NamedJudge<'a, Spec> {
    /// Its table: `judge`, `judge.members[0]`, `judge.held_out`, `judge.held_out.members[0]` or `judge.writer`.
    pub fn at(&self) -> String {
        let judge = match self.duty {
            Duty::Judge => "judge",
            Duty::HeldOutJudge => "judge.held_out",
            Duty::RubricWriter => "judge.writer",
        };
        match self.member {
            None => judge.to_owned(),
            Some(member) => format!("{judge}.members[{member}]"),
        }
    }

    fn with<Other>(&self, spec: &'a Other) -> NamedJudge<'a, Other> {
        NamedJudge {
            duty: self.duty,
            member: self.member,
            spec,
        }
    }
}

impl Default for JudgeSpec {
    fn default() -> Self {
        Self {
            template: PathBuf::new(),
            rubric: PathBuf::new(),
            margin: 0.0,
            batch: 1,
            cache: None,
            orders: OrdersRule::Both,
            orders_trust: None,
            orders_window: None,
            orders_recheck: None,
            min_distance: None,
            reasons: None,
            writer: None,
            held_out: None,
            back_end: JudgeBackEnd::default(),
        }
    }
}

impl Serialize for JudgeSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct OneTable<'a> {
            #[serde(flatten)]
            back_end: &'a JudgeBackEnd,
            #[serde(flatten, serialize_with = "JudgeSpec::serialize")]
            common: &'a JudgeSpec,
        }
        let table = OneTable {
            back_end: &self.back_end,
            common: self,
        };
        Serialize::serialize(&table, serializer)
    }
}

/// Reads what earlier versions wrote too: a table with the keys of every kind of judge.
impl<'de> Deserialize<'de> for JudgeSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        table::deserialize(deserializer, |table, problems| {
            table::judge(table, "judge", problems, Leftovers::Dropped)
        })
    }
}

impl Section for JudgeSpec {
    fn keys() -> Vec<&'static str> {
        table::keys()
    }

    fn read(table: Option<Table>, at: &str, problems: &mut Problems) -> Self {
        table.map_or_else(Self::default, |table| {
            table::judge(table, at, problems, Leftovers::Refused)
        })
    }

    fn check(&self, problems: &mut Problems) {
        self.back_end.check("judge", problems);
        check_margin(self.margin, "judge", problems);
        problems.require_set(
            &self.template,
            "judge.template",
            "a judge template such as configs/judge/instruct.toml",
        );
        problems.require_set(&self.rubric, "judge.rubric", "a rubric set, or a text file of criteria");
        problems.count(self.batch.into(), bounds::PER_STEP, "judge.batch");
        self.check_asking(problems);
        if let Some(reasons) = &self.reasons {
            reasons.check("judge.reasons", problems);
            problems.require(self.back_end.writer().is_some(), "judge.reasons", || {
                "nobody writes them: this judge gives scores alone, and so do all its members".into()
            });
        }
        if let Some(writer) = &self.writer {
            writer.check("judge.writer", problems);
            problems.require(self.rubric_writer().is_some(), "judge.writer", || {
                "nobody writes: this judge gives scores alone, and so do all its members; name a model in judge.writer.family"
                    .into()
            });
        }
        if let Some(held_out) = &self.held_out {
            held_out.check("judge.held_out", problems);
        }
    }
}

impl JudgeSpec {
    /// The judge's back end and, of an ensemble, those of its members.
    pub fn back_ends(&self) -> impl Iterator<Item = &JudgeBackEnd> {
        let members = self.back_end.members().iter();
        std::iter::once(&self.back_end).chain(members.map(|member| &member.back_end))
    }

    /// Every back end that judge workers open for a run: the judge's with its members', then the held-out judge's with its
    /// members', then that which writes rubrics where it is not the judge's.
    pub fn opened(&self) -> impl Iterator<Item = NamedJudge<'_>> {
        let held_out = self.held_out.iter();
        let held_out = held_out.map(|held_out| (Duty::HeldOutJudge, &held_out.back_end));
        let writer = self.writer.iter().filter_map(|writer| writer.back_end.as_ref());
        let writer = writer.map(|back_end| (Duty::RubricWriter, back_end));
        std::iter::once((Duty::Judge, &self.back_end))
            .chain(held_out)
            .chain(writer)
            .flat_map(|(duty, back_end)| {
                let whole = NamedJudge {
                    duty,
                    member: None,
                    spec: back_end,
                };
                let members = back_end.members().iter().enumerate();
                let members = members.map(move |(index, member)| NamedJudge {
                    member: Some(index),
                    spec: &member.back_end,
                    ..whole
                });
                std::iter::once(whole).chain(members)
            })
    }

    /// The models among these that judge workers load, each with its table.
    pub fn models(&self) -> impl Iterator<Item = (String, HostedModel<'_>)> {
        self.opened()
            .filter_map(|judge| Some((judge.at(), judge.spec.model()?)))
    }

    /// Those of them that answer in words.
    pub fn hosted(&self) -> impl Iterator<Item = NamedJudge<'_, InProcessSpec>> {
        self.opened().filter_map(|judge| match judge.spec {
            JudgeBackEnd::InProcess(spec) => Some(judge.with(spec)),
            _ => None,
        })
    }

    /// Those of them that are CLIPs.
    pub fn clips(&self) -> impl Iterator<Item = NamedJudge<'_, ClipSpec>> {
        self.opened().filter_map(|judge| match judge.spec {
            JudgeBackEnd::Clip(spec) => Some(judge.with(spec)),
            _ => None,
        })
    }

    /// What the models compute on, to change it.
    pub fn devices_mut(&mut self) -> impl Iterator<Item = &mut Device> {
        let held_out = self.held_out.iter_mut().map(|held_out| &mut held_out.back_end);
        let writer = self.writer.iter_mut().filter_map(|writer| writer.back_end.as_mut());
        std::iter::once(&mut self.back_end)
            .chain(held_out)
            .chain(writer)
            .flat_map(JudgeBackEnd::devices_mut)
    }

    /// The servers among these that speak of a model, and write.
    pub fn servers(&self) -> impl Iterator<Item = NamedJudge<'_, ServerSpec>> {
        self.opened().filter_map(|judge| match judge.spec {
            JudgeBackEnd::Server(spec) => Some(judge.with(spec)),
            _ => None,
        })
    }

    /// The servers among these that score pictures.
    pub fn scorers(&self) -> impl Iterator<Item = NamedJudge<'_, ScorerSpec>> {
        self.opened().filter_map(|judge| match judge.spec {
            JudgeBackEnd::Scorer(spec) => Some(judge.with(spec)),
            _ => None,
        })
    }

    /// The evaluators among these.
    pub fn evaluators(&self) -> impl Iterator<Item = NamedJudge<'_, EvaluatorSpec>> {
        self.opened().filter_map(|judge| match judge.spec {
            JudgeBackEnd::Evaluator(spec) => Some(judge.with(spec)),
            _ => None,
        })
    }

    /// How all servers among these are reached, and that of the writer's embedding, each with its table.
    pub fn connections(&self) -> impl Iterator<Item = (String, Connection<'_>)> {
        let embedding = self.embedding().and_then(EmbeddingSpec::connection);
        self.opened()
            .filter_map(|judge| Some((judge.at(), judge.spec.connection()?)))
            .chain(embedding.map(|connection| ("judge.writer.embedding".to_owned(), connection)))
    }

    /// What writes the rubrics of single prompts: what `[judge.writer]` names or, without that, what writes for the judge. `None` where
    /// there are scores alone.
    pub fn rubric_writer(&self) -> Option<&JudgeBackEnd> {
        let own = self.writer.as_ref().and_then(|writer| writer.back_end.as_ref());
        own.or_else(|| self.back_end.writer())
    }

    /// What finds the labelled pairs that are near a prompt; `None` where spelling does, or nothing is looked for.
    pub fn embedding(&self) -> Option<&EmbeddingSpec> {
        self.writer.as_ref()?.embedding.as_ref()
    }

    /// Whether verdicts are kept in the coordinator's store and not asked for twice.
    pub fn caches(&self) -> bool {
        let asks_a_server = || self.back_ends().any(|back_end| back_end.connection().is_some());
        self.cache.unwrap_or_else(asks_a_server)
    }

    /// Whether the rubrics that were written for single prompts are kept there for every run. The same prompts come in one run after
    /// another, and pictures seldom do: they are kept whoever writes, unless nothing is to be.
    pub fn keeps_rubrics(&self) -> bool {
        self.cache.unwrap_or(true)
    }

    /// Whether answers to questions about single pictures are kept there for every run, whoever answers: runs that evaluate adapters of one
    /// base paint the same pictures of it.
    pub fn keeps_answers(&self) -> bool {
        self.cache.unwrap_or(true)
    }
}

fn check_margin(margin: f64, at: &str, problems: &mut Problems) {
    problems.require((0.0..0.5).contains(&margin), &format!("{at}.margin"), || {
        format!("must lie in 0 to 0.5, 0.5 excluded, not {margin}")
    });
}
