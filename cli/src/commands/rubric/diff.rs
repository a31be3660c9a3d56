//! `gavel rubric diff`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gavel_core::ids::Digest;
use gavel_core::work::Task;
use gavel_rubric::{RubricSet, Rubrics};
use serde::Serialize;

use crate::commands::print_json;
use crate::diagnostic::Result;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// The first rubric set.
    #[arg(value_name = "A")]
    pub(super) before: PathBuf,
    /// The second rubric set.
    #[arg(value_name = "B")]
    pub(super) after: PathBuf,
    /// Print the differences as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// How two sets differ in what a judge reads.
#[derive(Debug, PartialEq, Serialize)]
struct Difference {
    before_sha256: Digest,
    after_sha256: Digest,
    same: bool,
    themes_removed: Vec<String>,
    themes_added: Vec<String>,
    criteria_removed: Vec<Placed>,
    criteria_added: Vec<Placed>,
    criteria_moved: Vec<Moved>,
    /// Criteria that both have in one theme, with other weights.
    weights_changed: Vec<Reweighed>,
    /// Whether themes or criteria that both have stand in another order.
    reordered: bool,
    /// Prompts that have a set of their own in the first file alone.
    prompts_removed: Vec<String>,
    /// Prompts that have a set of their own in the second file alone.
    prompts_added: Vec<String>,
    /// Prompts whose own set says other words.
    prompts_changed: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Placed {
    theme: String,
    criterion: String,
}

#[derive(Debug, PartialEq, Serialize)]
struct Moved {
    criterion: String,
    from: String,
    to: String,
}

/// No weight where the theme has none.
#[derive(Debug, PartialEq, Serialize)]
struct Reweighed {
    #[serde(flatten)]
    placed: Placed,
    before: Option<f64>,
    after: Option<f64>,
}

pub(super) fn diff(arguments: &DiffArguments) -> Result<ExitCode> {
    let (before, after) = (Rubrics::load(&arguments.before)?, Rubrics::load(&arguments.after)?);
    let difference = Difference::of(&before, &after);
    if arguments.json {
        print_json(&difference)?;
    } else {
        output::print(difference.describe())?;
    }
    Ok(ExitCode::from(u8::from(!difference.same)))
}

impl Difference {
    /// What a judge reads of two files: their general sets, and those of single prompts.
    fn of(before: &Rubrics, after: &Rubrics) -> Self {
        let mut difference = Self::of_sets(before.general(), after.general());
        let (old, new) = (before.of_prompts(), after.of_prompts());
        let words = |tasks: Vec<&Task>| tasks.into_iter().map(|task| task.words.clone()).collect();
        difference.prompts_removed = words(old.keys().filter(|task| !new.contains_key(task)).collect());
        difference.prompts_added = words(new.keys().filter(|task| !old.contains_key(task)).collect());
        let is_changed = |(task, set): &(&Task, &RubricSet)| {
            let other = new.get(task);
            other.is_some_and(|other| other.digest() != set.digest())
        };
        difference.prompts_changed = words(old.iter().filter(is_changed).map(|(task, _)| task).collect());
        let prompts = [
            &difference.prompts_removed,
            &difference.prompts_added,
            &difference.prompts_changed,
        ];
        difference.same &= prompts.iter().all(|prompts| prompts.is_empty());
        difference
    }

    fn of_sets(before: &RubricSet, after: &RubricSet) -> Self {
        let (old_themes, new_themes) = (theme_names(before), theme_names(after));
        let (old, new) = (placed(before), placed(after));
        let same = before.digest() == after.digest();
        let mut difference = Self {
            before_sha256: before.digest(),
            after_sha256: after.digest(),
            same,
            themes_removed: without(&old_themes, &new_themes),
            themes_added: without(&new_themes, &old_themes),
            criteria_removed: Vec::new(),
            criteria_added: Vec::new(),
            criteria_moved: Vec::new(),
            weights_changed: Vec::new(),
            reordered: false,
            prompts_removed: Vec::new(),
            prompts_added: Vec::new(),
            prompts_changed: Vec::new(),
        };
        // A criterion may stand in a set more than once: each is matched with one of the other set, of the same theme if possible.
        let mut open = new;
        let mut unmatched = Vec::new();
        for (placed, before) in old {
            match open.iter().position(|(other, _)| *other == placed) {
                Some(index) => {
                    let (_, after) = open.remove(index);
                    if before != after {
                        difference.weights_changed.push(Reweighed { placed, before, after });
                    }
                }
                None => unmatched.push(placed),
            }
        }
        for placed in unmatched {
            match open.iter().position(|(other, _)| other.criterion == placed.criterion) {
                Some(index) => difference.criteria_moved.push(Moved {
                    criterion: placed.criterion,
                    from: placed.theme,
                    to: open.remove(index).0.theme,
                }),
                None => difference.criteria_removed.push(placed),
            }
        }
        difference.criteria_added = open.into_iter().map(|(placed, _)| placed).collect();
        difference.reordered = !same && difference.is_empty();
        difference
    }

    fn is_empty(&self) -> bool {
        self.themes_removed.is_empty()
            && self.themes_added.is_empty()
            && self.criteria_removed.is_empty()
            && self.criteria_added.is_empty()
            && self.criteria_moved.is_empty()
            && self.weights_changed.is_empty()
    }

    fn describe(&self) -> String {
        if self.same {
            return format!("the same words: {}\n", self.before_sha256.short());
        }
        let mut lines = vec![format!(
            "{} -> {}",
            self.before_sha256.short(),
            self.after_sha256.short()
        )];
        lines.extend(self.themes_removed.iter().map(|theme| format!("- theme {theme}")));
        lines.extend(self.themes_added.iter().map(|theme| format!("+ theme {theme}")));
        let criterion = |sign: char, placed: &Placed| format!("{sign} {}: {}", placed.theme, placed.criterion);
        lines.extend(self.criteria_removed.iter().map(|placed| criterion('-', placed)));
        lines.extend(self.criteria_added.iter().map(|placed| criterion('+', placed)));
        let moved = |moved: &Moved| format!("> {} -> {}: {}", moved.from, moved.to, moved.criterion);
        lines.extend(self.criteria_moved.iter().map(moved));
        let number = |weight: Option<f64>| weight.map_or_else(|| "none".to_owned(), |weight| weight.to_string());
        let reweighed = |Reweighed { placed, before, after }: &Reweighed| {
            let (before, after) = (number(*before), number(*after));
            format!("= {}: {} (weight {before} -> {after})", placed.theme, placed.criterion)
        };
        lines.extend(self.weights_changed.iter().map(reweighed));
        if self.reordered {
            lines.push("the same themes and criteria in another order".to_owned());
        }
        lines.extend(self.prompts_removed.iter().map(|prompt| format!("- set of {prompt}")));
        lines.extend(self.prompts_added.iter().map(|prompt| format!("+ set of {prompt}")));
        lines.extend(self.prompts_changed.iter().map(|prompt| format!("! set of {prompt}")));
        lines.join("\n") + "\n"
    }
}

fn theme_names(rubric: &RubricSet) -> Vec<String> {
    rubric.themes.iter().filter_map(|theme| theme.name.clone()).collect()
}

fn without(names: &[String], others: &[String]) -> Vec<String> {
    names.iter().filter(|name| !others.contains(name)).cloned().collect()
}

fn placed(rubric: &RubricSet) -> Vec<(Placed, Option<f64>)> {
    let in_theme = |theme: &gavel_rubric::Theme| {
        let name = theme.name.clone().unwrap_or_else(|| "(no theme)".to_owned());
        let placed = |(tip, weight): (&str, f64)| {
            let placed = Placed {
                theme: name.clone(),
                criterion: tip.to_owned(),
            };
            (placed, Some(weight).filter(|_| !theme.weights.is_empty()))
        };
        theme.weighted().map(placed).collect::<Vec<_>>()
    };
    rubric.themes.iter().flat_map(in_theme).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(before: &Rubrics, after: &Rubrics) -> String {
        Difference::of(before, after).describe()
    }

    #[test]
    fn sets_of_single_prompts_are_compared_by_their_prompt() {
        let set = |text: &str| RubricSet::from_text(text).unwrap();
        let own = |prompts: [(&str, &str); 2]| {
            let own = prompts.map(|(prompt, text)| (Task::new(prompt), set(text)));
            Rubrics::new(set("As asked."), own.into())
        };
        let before = own([("a cube", "Red."), ("a ball", "Round.")]);
        let told = described(&before, &own([("a cube", "Blue."), ("a dog", "Barks.")]));
        assert!(
            told.ends_with("\n- set of a ball\n+ set of a dog\n! set of a cube\n"),
            "{told}"
        );
        assert!(described(&before, &before).starts_with("the same words"));
    }

    fn told(before: &str, after: &str) -> String {
        let set = |text| Rubrics::one(RubricSet::from_text(text).unwrap());
        let text = described(&set(before), &set(after));
        // Fingerprints are not what this is about.
        text.lines()
            .filter(|line| !line.contains(" -> ") || line.starts_with(['>', '=']))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn what_was_added_removed_and_moved_is_told() {
        let before = "A\n- one\n- two\nB\n- three\n- three\n";
        assert_eq!(
            told(before, "A\n- two\n- four\nC\n- three\n- one\n"),
            "- theme B\n+ theme C\n- B: three\n+ A: four\n> A -> C: one\n> B -> C: three"
        );
        assert_eq!(
            told(before, "B\n- three\n- three\nA\n- one\n- two\n"),
            "the same themes and criteria in another order"
        );
        assert!(told(before, before).starts_with("the same words"));
        let weighted = "A\n- [weight 0.5] one\n- two\nB\n- three\n- three\n";
        assert_eq!(
            told(before, weighted),
            "= A: one (weight none -> 0.5)\n= A: two (weight none -> 1)"
        );
        assert_eq!(
            told(weighted, &weighted.replace("0.5", "2")),
            "= A: one (weight 0.5 -> 2)"
        );
    }
}
