//! The family of the base model, which core knows by name only.

use gavel_core::spec::Problem;
use gavel_models::Family;
use toml::{Table, Value};

/// The name that a published recipe gives a family which this version does not train.
const COMING: &str = "qwen_image_edit";

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
    let found = name(table)?;
    let unknown = Family::from_name(found).err()?;
    let message = match found {
        COMING => format!(
            "`{COMING}` (instruction editing) is not part of this version yet: this file holds the published recipe, and \
             training it comes with a later version; use a text-to-image family such as `{}` until then",
            Family::ALL[0]
        ),
        _ => unknown.to_string(),
    };
    Some(Problem {
        key: "model.family".to_owned(),
        message,
        suggestion: None,
    })
}

fn name(table: &Table) -> Option<&str> {
    table.get("model")?.get("family")?.as_str()
}
