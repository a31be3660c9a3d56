//! From a layered TOML table to a checked [`RunSpec`].

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::problems::Problems;
use super::{RunSpec, SECTIONS, keys, model};

/// What a section may lack: the table's own keys decide these defaults.
fn fill_dependent_defaults(table: &mut Table) {
    let sampling = table.get("sampling").and_then(Value::as_table);
    if sampling.is_some_and(|sampling| !sampling.contains_key("noise_steps")) {
        let steps = sampling
            .and_then(|sampling| sampling.get("steps"))
            .and_then(Value::as_integer);
        let ignore_last = table
            .get("objective")
            .and_then(|objective| objective.get("ignore_last"))
            .and_then(Value::as_bool)
            .unwrap_or(true);
        let steps = steps.unwrap_or_else(|| super::SamplingSpec::default().steps as i64);
        // A single step cannot lose its last one; the cross-section check tells about that.
        let noise_steps = if ignore_last { (steps - 1).max(1) } else { steps };
        if let Some(sampling) = table.get_mut("sampling").and_then(Value::as_table_mut) {
            sampling.insert("noise_steps".into(), Value::Integer(noise_steps));
        }
    }
    let family = table
        .get("model")
        .and_then(|model| model.get("family"))
        .and_then(Value::as_str);
    if family == Some("qwen_image_edit") {
        let lora = table.entry("lora").or_insert_with(|| Value::Table(Table::new()));
        if let Some(lora) = lora.as_table_mut()
            && !lora.contains_key("target_modules")
        {
            let names = model::default_targets(model::ModelFamily::QwenImageEdit);
            lora.insert(
                "target_modules".into(),
                names.into_iter().map(Value::String).collect::<Vec<_>>().into(),
            );
        }
    }
}

pub(super) fn from_value(mut table: Table) -> Result<RunSpec, Problems> {
    let mut problems = Problems::default();
    let names: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
    table.retain(|name, _| {
        let known = names.contains(&name);
        if !known {
            let everywhere = SECTIONS
                .iter()
                .find(|(_, keys)| keys().contains(&name))
                .map(|(section, _)| format!("{section}.{name}"));
            problems.add(
                name,
                "unknown section",
                everywhere.or_else(|| keys::nearest(name, &names)),
            );
        }
        known
    });
    for (section, keys) in SECTIONS {
        let Some(value) = table.get_mut(*section) else { continue };
        let Some(value) = value.as_table_mut() else {
            problems.add(
                *section,
                format!("must be a table `[{section}]`, not {}", value.type_str()),
                None,
            );
            table.remove(*section);
            continue;
        };
        value.retain(|key, _| {
            let known = keys().contains(&key);
            if !known {
                let nearest = keys::nearest(key, keys()).map(|name| format!("{section}.{name}"));
                problems.add(format!("{section}.{key}"), "unknown key", nearest);
            }
            known
        });
    }
    fill_dependent_defaults(&mut table);
    let evaluation = table
        .contains_key("evaluation")
        .then(|| section(&mut table, "evaluation", &mut problems));
    let spec = RunSpec {
        run: section(&mut table, "run", &mut problems),
        model: section(&mut table, "model", &mut problems),
        prompts: section(&mut table, "prompts", &mut problems),
        sampling: section(&mut table, "sampling", &mut problems),
        lora: section(&mut table, "lora", &mut problems),
        objective: section(&mut table, "objective", &mut problems),
        optimizer: section(&mut table, "optimizer", &mut problems),
        judge: section(&mut table, "judge", &mut problems),
        trainer: section(&mut table, "trainer", &mut problems),
        checkpoints: section(&mut table, "checkpoints", &mut problems),
        evaluation,
        limits: section(&mut table, "limits", &mut problems),
        fleet: section(&mut table, "fleet", &mut problems),
        coordinator: section(&mut table, "coordinator", &mut problems),
    };
    spec.check_into(&mut problems);
    if problems.is_empty() { Ok(spec) } else { Err(problems) }
}

/// Reads one section. A key of the wrong type is reported and left out, and the rest is read again, so that every such key
/// is found; what stands in for it is never used, because the whole is refused.
fn section<T: DeserializeOwned + Default>(table: &mut Table, name: &str, problems: &mut Problems) -> T {
    let Some(Value::Table(mut section)) = table.remove(name) else {
        return T::default();
    };
    loop {
        match serde_path_to_error::deserialize::<_, T>(Value::Table(section.clone())) {
            Ok(read) => return read,
            Err(error) => {
                let path = error.path().to_string();
                let message = error.inner().message().trim().to_owned();
                let first = path.split(['.', '[']).next().unwrap_or_default().to_owned();
                problems.add(format!("{name}.{path}"), message, None);
                if section.remove(&first).is_none() {
                    return T::default();
                }
            }
        }
    }
}
