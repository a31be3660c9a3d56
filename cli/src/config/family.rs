//! Which families of base models this program trains. Core takes any name.

use gavel_core::spec::{LoraSpec, Problem};
use toml::{Table, Value};

/// The families that this program trains, each with its published target modules.
const FAMILIES: &[(&str, &[&str])] = &[("flux", &LoraSpec::PUBLISHED_TARGETS)];

/// Gives `[lora]` the target modules that were published for the family, unless the configuration names some.
pub(super) fn fill_target_modules(table: &mut Table) {
    let family = table.get("model").and_then(|model| model.get("family")?.as_str());
    let Some((_, modules)) = FAMILIES.iter().find(|(name, _)| Some(*name) == family) else {
        return;
    };
    let modules: Vec<Value> = modules.iter().map(|module| Value::from(*module)).collect();
    let lora = table.entry("lora").or_insert_with(|| Table::new().into());
    if let Some(lora) = lora.as_table_mut() {
        lora.entry("target_modules").or_insert(modules.into());
    }
}

/// What is wrong with the family's name.
pub(super) fn check(table: &Table) -> Option<Problem> {
    let family = table.get("model")?.get("family")?.as_str()?;
    if FAMILIES.iter().any(|(name, _)| *name == family) {
        return None;
    }
    let known: Vec<String> = FAMILIES.iter().map(|(name, _)| format!("`{name}`")).collect();
    let message = match family {
        "qwen_image_edit" => "`qwen_image_edit` (instruction editing) is not part of this version yet: this file holds the \
                              published recipe, and training it comes with a later version; use a text-to-image family such \
                              as `flux` until then"
            .to_owned(),
        _ => format!("`{family}` is no family that this version trains; it trains {}", known.join(", ")),
    };
    Some(Problem {
        key: "model.family".to_owned(),
        message,
        suggestion: None,
    })
}
