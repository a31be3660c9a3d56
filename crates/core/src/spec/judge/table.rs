//! One table with the keys that every judge has and those of its kind: `family` says how it is split.

use serde::{Deserialize as _, Deserializer};
use toml::{Table, Value};

use super::back_end::{BackEnd as _, KINDS, Kind};
use super::{
    EmbeddingServerSpec, EmbeddingSpec, HeldOutJudgeSpec, JudgeBackEnd, JudgeSpec, MemberSpec, ServerSpec,
    TextEncoderSpec, WriterSpec,
};
use crate::spec::problems::Problems;
use crate::spec::{keys as names, section};

/// What becomes of keys that mean nothing to this kind of judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leftovers {
    /// In a configuration: somebody wrote them and expects something.
    Refused,
    /// In a spec that this program or an earlier one wrote: those of every kind stood there with their defaults.
    Dropped,
}

/// Every key of `[judge]` and its members, in the order of the documentation.
pub(super) fn keys() -> Vec<&'static str> {
    let mut keys = vec!["family"];
    let own = KINDS.iter().flat_map(|kind| (kind.keys)());
    for key in judge_keys().into_iter().chain(own).chain(member_keys()) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// Every key of `[judge]` and its members that has a default, with it.
pub(in crate::spec) fn defaults() -> Table {
    let mut table = Table::new();
    let of_kinds = KINDS.iter().rev().map(|kind| (kind.defaults)());
    let of_judges = [
        Table::try_from(MemberSpec::default()),
        Table::try_from(JudgeSpec::default()),
    ];
    for defaults in of_kinds.chain(of_judges).flatten() {
        table.extend(defaults);
    }
    table
}

/// Reads `[judge]`.
pub(super) fn judge(mut table: Table, at: &str, problems: &mut Problems, leftovers: Leftovers) -> JudgeSpec {
    section::refuse_unknown(&mut table, at, &keys(), problems);
    let held_out = inner(&mut table, at, "held_out", problems, leftovers, held_out);
    let writer = inner(&mut table, at, "writer", problems, leftovers, writer);
    let Split { common, rest, back_end } = split(table, at, &judge_keys(), problems, leftovers);
    if leftovers == Leftovers::Refused {
        for (key, _) in meaningful(&rest) {
            let reason = match key {
                "weight" => "only a member of an ensemble has a weight".into(),
                "veto" => "only a member of an ensemble has a veto".into(),
                key => foreign(key),
            };
            problems.add(format!("{at}.{key}"), reason, None);
        }
    }
    JudgeSpec {
        back_end,
        held_out: held_out.map(Box::new),
        writer,
        ..section::read(common, at, problems, |value| JudgeSpec::deserialize(value))
    }
}

/// Reads `[judge.held_out]`.
pub(super) fn held_out(table: Table, at: &str, problems: &mut Problems, leftovers: Leftovers) -> HeldOutJudgeSpec {
    let mut table = table;
    let mut known = keys();
    known.extend(held_out_keys());
    section::refuse_unknown(&mut table, at, &known, problems);
    let Split { common, rest, back_end } = split(table, at, &held_out_keys(), problems, leftovers);
    if leftovers == Leftovers::Refused {
        for (key, _) in meaningful(&rest) {
            let reason = match key {
                "weight" => "only a member of an ensemble has a weight".into(),
                "veto" => "only a member of an ensemble has a veto".into(),
                "batch" => "its pairs are judged as many at a time as `judge.batch` says: remove it".into(),
                "reasons" => "a held-out judge gives none: remove it, or set judge.reasons".into(),
                "writer" => {
                    "a held-out judge has rubrics that are written before the run (`gavel rubric write`): remove it"
                        .into()
                }
                "held_out" => "a held-out judge is watched by none: remove it".into(),
                "orders" | "orders_trust" | "orders_window" | "orders_recheck" => {
                    "a held-out judge is asked in both image orders: remove it".into()
                }
                "min_distance" => "its pairs are those that judge.min_distance leaves: remove it".into(),
                key => foreign(key),
            };
            problems.add(format!("{at}.{key}"), reason, None);
        }
    }
    HeldOutJudgeSpec {
        back_end,
        ..section::read(common, at, problems, |value| HeldOutJudgeSpec::deserialize(value))
    }
}

/// Reads `[judge.writer]`. Without a `family` it names no model of its own.
pub(super) fn writer(mut table: Table, at: &str, problems: &mut Problems, leftovers: Leftovers) -> WriterSpec {
    let own = writer_keys();
    let mut known = keys();
    known.extend(&own);
    section::refuse_unknown(&mut table, at, &known, problems);
    let embedding = inner(&mut table, at, "embedding", problems, leftovers, embedding);
    let (common, rest, back_end) = if table.contains_key("family") {
        let Split { common, rest, back_end } = split(table, at, &own, problems, leftovers);
        (common, rest, Some(back_end))
    } else {
        let (common, rest) = table.into_iter().partition(|(key, _)| own.contains(&key.as_str()));
        (common, rest, None)
    };
    if leftovers == Leftovers::Refused {
        let of_judges = judge_keys();
        let of_members = member_keys();
        for (key, _) in meaningful(&rest) {
            let reason = if of_judges.contains(&key) {
                format!("belongs to the judge: set judge.{key}")
            } else if of_members.contains(&key) {
                "only a member of an ensemble has it: remove it".into()
            } else if back_end.is_none() {
                format!("the judge's own model writes: set {at}.family too for another one, or remove it")
            } else {
                foreign(key)
            };
            problems.add(format!("{at}.{key}"), reason, None);
        }
    }
    WriterSpec {
        back_end,
        embedding,
        ..section::read(common, at, problems, |value| WriterSpec::deserialize(value))
    }
}

/// The family of an embedding that is a folder's text encoder; the one without `family`.
const CLIP_TEXT: &str = "clip_text";

/// Reads `[judge.writer.embedding]`.
pub(super) fn embedding(
    mut table: Table,
    at: &str,
    problems: &mut Problems,
    mut leftovers: Leftovers,
) -> EmbeddingSpec {
    section::refuse_unknown(&mut table, at, &embedding_keys(), problems);
    let family = table.get("family").and_then(Value::as_str);
    let is_server = family.is_some_and(|family| ServerSpec::FAMILIES.contains(&family));
    if let Some(family) = table.get("family")
        && !is_server
        && family.as_str() != Some(CLIP_TEXT)
    {
        let reason = format!("must be one of `{CLIP_TEXT}`, `openai`, not {family}");
        problems.add(format!("{at}.family"), reason, None);
        // Which keys it has is not known either.
        table.remove("family");
        leftovers = Leftovers::Dropped;
    }
    let own = match is_server {
        true => embedding_server_keys(),
        false => text_encoder_keys(),
    };
    let (common, rest): (Table, Table) = table.into_iter().partition(|(key, _)| own.contains(&key.as_str()));
    if leftovers == Leftovers::Refused {
        for (key, _) in meaningful(&rest) {
            let family = if is_server { CLIP_TEXT } else { "openai" };
            let reason = format!("only an embedding of family \"{family}\" has it: remove it, or choose that family");
            problems.add(format!("{at}.{key}"), reason, None);
        }
    }
    match is_server {
        true => EmbeddingSpec::Server(section::read(common, at, problems, |value| {
            EmbeddingServerSpec::deserialize(value)
        })),
        false => EmbeddingSpec::TextEncoder(section::read(common, at, problems, |value| {
            TextEncoderSpec::deserialize(value)
        })),
    }
}

/// Takes the table of this name out of another one, and reads it.
fn inner<T>(
    table: &mut Table,
    at: &str,
    key: &str,
    problems: &mut Problems,
    leftovers: Leftovers,
    read: impl FnOnce(Table, &str, &mut Problems, Leftovers) -> T,
) -> Option<T> {
    let at = format!("{at}.{key}");
    match table.remove(key)? {
        Value::Table(table) => Some(read(table, &at, problems, leftovers)),
        other => {
            problems.add(at, format!("must be a table, not {}", other.type_str()), None);
            None
        }
    }
}

/// Reads one of `[[judge.members]]`.
pub(super) fn member(table: Table, at: &str, problems: &mut Problems, leftovers: Leftovers) -> MemberSpec {
    let mut table = table;
    section::refuse_unknown(&mut table, at, &keys(), problems);
    let Split { common, rest, back_end } = split(table, at, &member_keys(), problems, leftovers);
    if leftovers == Leftovers::Refused {
        let of_the_ensemble = judge_keys();
        for (key, _) in meaningful(&rest) {
            let reason = match of_the_ensemble.contains(&key) {
                true => format!("belongs to the ensemble: set judge.{key}"),
                false => foreign(key),
            };
            problems.add(format!("{at}.{key}"), reason, None);
        }
    }
    MemberSpec {
        back_end,
        ..section::read(common, at, problems, |value| MemberSpec::deserialize(value))
    }
}

/// For `Deserialize`: reads a table of any format, and makes one error of all problems.
pub(super) fn deserialize<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    read: impl FnOnce(Table, &mut Problems) -> T,
) -> Result<T, D::Error> {
    let table = Table::deserialize(deserializer)?;
    let mut problems = Problems::default();
    let spec = read(table, &mut problems);
    match problems.is_empty() {
        true => Ok(spec),
        false => Err(serde::de::Error::custom(problems)),
    }
}

/// A judge's table in parts.
struct Split {
    /// The keys that the struct around the back end has.
    common: Table,
    /// The keys that this judge has no use for.
    rest: Table,
    back_end: JudgeBackEnd,
}

fn split(table: Table, at: &str, common_keys: &[&str], problems: &mut Problems, leftovers: Leftovers) -> Split {
    let known = problems.0.len();
    let kind = kind(&table, at, problems);
    let family_is_known = problems.0.len() == known;
    let own_keys = (kind.keys)();
    let (mut common, mut own, mut rest) = (Table::new(), Table::new(), Table::new());
    for (key, value) in table {
        let part = if common_keys.contains(&key.as_str()) {
            &mut common
        } else if own_keys.contains(&key.as_str()) {
            &mut own
        } else {
            &mut rest
        };
        part.insert(key, value);
    }
    if !family_is_known {
        // Which keys it has is not known either.
        own.remove("family");
        rest.clear();
    }
    let back_end = (kind.read)(own, at, problems, leftovers);
    Split { common, rest, back_end }
}

/// The kind that `family` names. One that is unknown is reported, and the default kind stands in for it.
fn kind(table: &Table, at: &str, problems: &mut Problems) -> &'static Kind {
    let Some(family) = table.get("family") else {
        return &KINDS[0];
    };
    let families: Vec<&str> = KINDS.iter().flat_map(|kind| kind.families).copied().collect();
    let found = family
        .as_str()
        .and_then(|family| KINDS.iter().find(|kind| kind.families.contains(&family)));
    found.unwrap_or_else(|| {
        let known = families
            .iter()
            .map(|family| format!("`{family}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let nearest = family.as_str().and_then(|family| names::nearest(family, &families));
        problems.add(
            format!("{at}.family"),
            format!("must be one of {known}, not {family}"),
            nearest,
        );
        &KINDS[0]
    })
}

/// Those of `rest` whose values say something: neither nothing at all nor the default, nor what does no harm.
fn meaningful(rest: &Table) -> impl Iterator<Item = (&str, &Value)> {
    let defaults = defaults();
    rest.iter()
        .map(|(key, value)| (key.as_str(), value))
        .filter(move |(key, value)| {
            let is_empty = match value {
                Value::String(text) => text.is_empty(),
                Value::Array(entries) => entries.is_empty(),
                _ => false,
            };
            let is_harmless = KINDS.iter().any(|kind| kind.harmless.contains(key));
            !is_empty && !is_harmless && defaults.get(*key) != Some(value)
        })
}

/// Why a key of another kind is refused.
fn foreign(key: &str) -> String {
    let owners = KINDS.iter().filter(|kind| (kind.keys)().contains(&key));
    let families: Vec<String> = owners
        .flat_map(|kind| kind.families)
        .map(|family| format!("\"{family}\""))
        .collect();
    let families = match families.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "that knows it".into(),
    };
    format!("only a judge of family {families} has it: remove it, or choose another family")
}

fn judge_keys() -> Vec<&'static str> {
    names::of(|probe| JudgeSpec::deserialize(probe))
}

pub(in crate::spec) fn held_out_keys() -> Vec<&'static str> {
    names::of(|probe| HeldOutJudgeSpec::deserialize(probe))
}

pub(in crate::spec) fn writer_keys() -> Vec<&'static str> {
    names::of(|probe| WriterSpec::deserialize(probe))
}

/// Every key of `[judge.writer.embedding]`, in the order of the documentation.
pub(in crate::spec) fn embedding_keys() -> Vec<&'static str> {
    let mut keys = text_encoder_keys();
    keys.extend(embedding_server_keys().into_iter().filter(|key| *key != "family"));
    keys
}

fn text_encoder_keys() -> Vec<&'static str> {
    names::of(|probe| TextEncoderSpec::deserialize(probe))
}

fn embedding_server_keys() -> Vec<&'static str> {
    names::of(|probe| EmbeddingServerSpec::deserialize(probe))
}

fn member_keys() -> Vec<&'static str> {
    names::of(|probe| MemberSpec::deserialize(probe))
}
