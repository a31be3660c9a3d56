//! From a layered TOML table to a checked [`RunSpec`].

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::problems::Problems;
use super::{RunSpec, SECTIONS, keys, section};

pub(super) fn from_value(table: Table) -> Result<RunSpec, Problems> {
    let mut problems = Problems::default();
    let mut tables = known_tables(table, &mut problems);
    fill_noise_steps(&mut tables);
    let spec = RunSpec::read(tables, &mut problems);
    spec.check_into(&mut problems);
    if problems.is_empty() { Ok(spec) } else { Err(problems) }
}

/// The sections that there are, with the keys that they may have; everything else is reported.
fn known_tables(table: Table, problems: &mut Problems) -> BTreeMap<String, Table> {
    let mut tables = BTreeMap::new();
    for (name, value) in table {
        let Some((_, keys)) = SECTIONS.iter().find(|(section, _)| *section == name) else {
            problems.add(&name, "unknown section", meant(&name));
            continue;
        };
        match value {
            Value::Table(mut table) => {
                section::refuse_unknown(&mut table, &name, &keys(), problems);
                tables.insert(name, table);
            }
            other => problems.add(
                &name,
                format!("must be a table `[{name}]`, not {}", other.type_str()),
                None,
            ),
        }
    }
    tables
}

/// What somebody meant who wrote `name` as a section: a key of this name in some section, or a section of a like name.
fn meant(name: &str) -> Option<String> {
    let key = SECTIONS
        .iter()
        .find(|(_, keys)| keys().contains(&name))
        .map(|(section, _)| format!("{section}.{name}"));
    let sections: Vec<&str> = SECTIONS.iter().map(|(section, _)| *section).collect();
    key.or_else(|| keys::nearest(name, &sections))
}

/// Noise in every step that is trained, where the file does not say how many steps have noise.
fn fill_noise_steps(tables: &mut BTreeMap<String, Table>) {
    let ignore_last = tables
        .get("objective")
        .and_then(|objective| objective.get("ignore_last"))
        .and_then(Value::as_bool)
        .unwrap_or(true);
    let Some(sampling) = tables
        .get_mut("sampling")
        .filter(|sampling| !sampling.contains_key("noise_steps"))
    else {
        return;
    };
    let steps = sampling.get("steps").and_then(Value::as_integer);
    let steps = steps.unwrap_or_else(|| super::SamplingSpec::default().steps as i64);
    // A single step cannot lose its last one; the cross-section check tells about that.
    let noise_steps = if ignore_last { (steps - 1).max(1) } else { steps };
    sampling.insert("noise_steps".into(), Value::Integer(noise_steps));
}
