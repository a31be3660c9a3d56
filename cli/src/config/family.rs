//! The family of the base model, which core knows by name only.

use gavel_core::spec::Problem;
use gavel_models::Family;
use toml::{Table, Value};

/// Gives `[lora]` the target modules that were published for the family, unless the configuration names some.
pub(super) fn fill_target_modules(table: &mut Table) {
    let Some(family) = name(table).and_then(|name| Family::from_name(name).ok()) else {
        return;
    };
    let modules: Vec<Value> = family
        .published_targets()
        .iter()
        .map(|module| Value::from(*module))
        .collect();
    let lora = table.entry("lora").or_insert_with(|| Table::new().into());
    if let Some(lora) = lora.as_table_mut() {
        lora.entry("target_modules").or_insert(modules.into());
    }
}

/// What is wrong with the family's name.
pub(super) fn check(table: &Table) -> Option<Problem> {
    let unknown = Family::from_name(name(table)?).err()?;
    Some(Problem {
        key: "model.family".to_owned(),
        message: unknown.to_string(),
        suggestion: None,
    })
}

fn name(table: &Table) -> Option<&str> {
    table.get("model")?.get("family")?.as_str()
}
