//! The kinds of judge, each listed once.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Table;

use super::table::Leftovers;
use super::{ClipSpec, Connection, EnsembleSpec, EvaluatorSpec, InProcessSpec, MemberSpec, ScorerSpec, ServerSpec};
use crate::spec::device::{Device, Dtype};
use crate::spec::problems::Problems;
use crate::spec::{keys, section};

/// A kind of judge: a struct whose fields are the keys that only this kind has, and `family`.
pub(super) trait BackEnd: Serialize + DeserializeOwned + Default {
    /// The values of `family` that mean this kind.
    const FAMILIES: &'static [&'static str];

    /// Keys of this kind that judges of another kind may leave set to anything: a file that was written for this kind is
    /// pointed at another by `--set`, which cannot remove a key.
    const HARMLESS: &'static [&'static str] = &[];

    /// The keys, in the order of the documentation.
    fn keys() -> Vec<&'static str> {
        keys::of(|probe| Self::deserialize(probe))
    }

    /// Reads a table that has these keys only.
    fn read(table: Table, at: &str, problems: &mut Problems, _leftovers: Leftovers) -> Self {
        section::read(table, at, problems, |value| Self::deserialize(value))
    }

    /// Adds what is wrong with the values. `at` is the judge's table.
    fn check(&self, at: &str, problems: &mut Problems);
}

/// A kind of judge as [`super::table`] needs it.
pub(super) struct Kind {
    pub(super) families: &'static [&'static str],
    pub(super) harmless: &'static [&'static str],
    pub(super) keys: fn() -> Vec<&'static str>,
    pub(super) defaults: fn() -> Result<Table, toml::ser::Error>,
    pub(super) read: fn(Table, &str, &mut Problems, Leftovers) -> JudgeBackEnd,
}

macro_rules! back_ends {
    ($($(#[$attribute:meta])* $variant:ident($spec:ty),)*) => {
        /// What answers the judge's questions.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(untagged)]
        pub enum JudgeBackEnd {
            $($(#[$attribute])* $variant($spec),)*
        }

        /// All kinds; the first is the one without `family`.
        pub(super) const KINDS: &[Kind] = &[$(Kind {
            families: <$spec as BackEnd>::FAMILIES,
            harmless: <$spec as BackEnd>::HARMLESS,
            keys: <$spec as BackEnd>::keys,
            defaults: || Table::try_from(<$spec>::default()),
            read: |table, at, problems, leftovers| {
                JudgeBackEnd::$variant(<$spec as BackEnd>::read(table, at, problems, leftovers))
            },
        },)*];

        impl JudgeBackEnd {
            pub(super) fn check(&self, at: &str, problems: &mut Problems) {
                match self {
                    $(Self::$variant(spec) => spec.check(at, problems),)*
                }
            }
        }

        $(impl From<$spec> for JudgeBackEnd {
            fn from(spec: $spec) -> Self {
                Self::$variant(spec)
            }
        })*
    };
}

back_ends! {
    /// A model in the judge worker's own memory.
    InProcess(InProcessSpec),
    /// A model behind a server.
    Server(ServerSpec),
    /// A server that scores pictures.
    Scorer(ScorerSpec),
    /// An evaluator's rules.
    Evaluator(EvaluatorSpec),
    /// A CLIP in the judge worker's own memory.
    Clip(ClipSpec),
    /// Several judges that vote.
    Ensemble(EnsembleSpec),
}

/// A model that a judge worker loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostedModel<'a> {
    /// Its folder.
    pub path: &'a Path,
    /// What it computes on.
    pub device: Device,
    /// Number format of its weights.
    pub dtype: Dtype,
}

impl Default for JudgeBackEnd {
    fn default() -> Self {
        Self::InProcess(InProcessSpec::default())
    }
}

impl JudgeBackEnd {
    /// The judges of an ensemble; none of any other.
    pub fn members(&self) -> &[MemberSpec] {
        match self {
            Self::Ensemble(ensemble) => &ensemble.members,
            Self::InProcess(_) | Self::Server(_) | Self::Scorer(_) | Self::Evaluator(_) | Self::Clip(_) => &[],
        }
    }

    /// How its server is reached; `None` where it asks none itself.
    pub fn connection(&self) -> Option<Connection<'_>> {
        match self {
            Self::Server(spec) => Some(spec.connection()),
            Self::Scorer(spec) => Some(spec.connection()),
            Self::InProcess(_) | Self::Evaluator(_) | Self::Clip(_) | Self::Ensemble(_) => None,
        }
    }

    /// What writes words for it: its own model, of an ensemble the first member's that has one. `None` where there are scores alone.
    pub fn writer(&self) -> Option<&Self> {
        match self {
            Self::InProcess(_) | Self::Server(_) => Some(self),
            Self::Ensemble(ensemble) => ensemble.members.iter().find_map(|member| member.back_end.writer()),
            Self::Scorer(_) | Self::Evaluator(_) | Self::Clip(_) => None,
        }
    }

    /// The model that it has loaded itself; `None` where it has none.
    pub fn model(&self) -> Option<HostedModel<'_>> {
        let (path, device, dtype) = match self {
            Self::InProcess(spec) => (&spec.path, spec.device, spec.dtype),
            Self::Clip(spec) => (&spec.path, spec.device, spec.dtype),
            Self::Server(_) | Self::Scorer(_) | Self::Evaluator(_) | Self::Ensemble(_) => return None,
        };
        Some(HostedModel { path, device, dtype })
    }

    /// What the models of this and of its members compute on, to change it.
    pub(super) fn devices_mut(&mut self) -> Box<dyn Iterator<Item = &mut Device> + '_> {
        match self {
            Self::InProcess(spec) => Box::new(std::iter::once(&mut spec.device)),
            Self::Clip(spec) => Box::new(std::iter::once(&mut spec.device)),
            Self::Ensemble(ensemble) => Box::new(
                ensemble
                    .members
                    .iter_mut()
                    .flat_map(|member| member.back_end.devices_mut()),
            ),
            Self::Server(_) | Self::Scorer(_) | Self::Evaluator(_) => Box::new(std::iter::empty()),
        }
    }
}
