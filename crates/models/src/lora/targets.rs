//! From target names to linear layers.

use std::collections::BTreeSet;

use super::{AdaptableLayers, LoraError};

/// Whether a target means a module: the same path, or the end of it.
fn matches(target: &str, module: &str) -> bool {
    module
        .strip_suffix(target)
        .is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

/// The paths of all modules that the targets mean, sorted.
pub(super) fn resolve(targets: &[String], layers: &AdaptableLayers) -> Result<BTreeSet<String>, LoraError> {
    let mut modules = BTreeSet::new();
    for target in targets {
        if let Some(module) = layers.fixed.iter().find(|module| matches(target, module)) {
            return Err(LoraError::FixedTarget {
                target: target.clone(),
                module: module.clone(),
            });
        }
        let before = modules.len();
        let hits = layers.layers.keys().filter(|module| matches(target, module));
        let mut any = false;
        modules.extend(hits.inspect(|_| any = true).cloned());
        if modules.len() == before && !any {
            return Err(LoraError::UnknownTarget {
                target: target.clone(),
                nearest: nearest(target, layers),
            });
        }
    }
    Ok(modules)
}

/// The path, or end of a path, that is most like `target`.
fn nearest(target: &str, layers: &AdaptableLayers) -> Option<String> {
    let mut candidates = BTreeSet::new();
    for module in layers.layers.keys() {
        candidates.insert(module.as_str());
        candidates.extend(module.match_indices('.').map(|(dot, _)| &module[dot + 1..]));
    }
    let closest = candidates
        .into_iter()
        .min_by_key(|candidate| strsim::levenshtein(target, candidate))?;
    // A name that shares less than half of its letters is no help.
    (strsim::levenshtein(target, closest) <= target.len().max(closest.len()) / 2).then(|| closest.to_owned())
}
