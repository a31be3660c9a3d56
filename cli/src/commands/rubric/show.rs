//! `gavel rubric show`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use gavel_rubric::{Combine, Provenance, RubricFile, RubricSet, Rubrics, Theme};
use serde_json::json;

use crate::commands::print_json;
use crate::diagnostic::Result;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// Rubric (TOML), or bare text with a criterion on each line.
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Print it as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn show(arguments: &ShowArguments) -> Result<()> {
    let file = RubricFile::load(&arguments.file)?;
    let rubrics = file.rubrics(&arguments.file)?;
    let rubric = rubrics.general();
    if arguments.json {
        let of_prompts = rubrics.of_prompts().iter().map(|(task, set)| {
            json!({
                "prompt": task.words,
                "sources": task.sources,
                "sha256": set.digest(),
                "text": set.text(),
            })
        });
        return print_json(&json!({
            "sha256": rubric.digest(),
            "criteria": rubric.criteria().count(),
            "rubric": rubric,
            "combine": file.combine,
            "prompts": of_prompts.collect::<Vec<_>>(),
        }));
    }
    output::print(describe(rubric) + &of_prompts(&rubrics, file.combine))
}

/// The sets of single prompts, each as a judge reads it.
fn of_prompts(rubrics: &Rubrics, combine: Combine) -> String {
    let own = rubrics.of_prompts();
    if own.is_empty() {
        return String::new();
    }
    let rule = match combine {
        Combine::Specific => "alone",
        Combine::SpecificThenGeneral => "before the general criteria",
    };
    let whose = match own.len() {
        1 => "1 prompt has a set of its own".to_owned(),
        count => format!("{count} prompts have a set of their own"),
    };
    let mut text = format!("\n{whose}, which decides {rule}\n");
    for (task, set) in own {
        let sources = match task.sources.as_slice() {
            [] => String::new(),
            sources => format!(
                ", editing {}",
                sources
                    .iter()
                    .map(|source| source.short())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n{}{sources} ({})\n{}",
            task.words,
            set.digest().short(),
            themes(set)
        );
    }
    text
}

fn describe(rubric: &RubricSet) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    row("rubric", rubric.name.as_deref().unwrap_or("without a name"));
    row("sha256", &rubric.digest().to_string());
    let (themes, criteria) = (rubric.themes.len(), rubric.criteria().count());
    row("contents", &format!("{criteria} criteria in {themes} themes"));
    if let Some(provenance) = &rubric.provenance {
        origin(provenance, &mut row);
    }
    for theme in &rubric.themes {
        let _ = write!(
            text,
            "\n{}\n{}",
            theme.name.as_deref().unwrap_or("(no theme)"),
            tips(theme)
        );
    }
    text
}

fn themes(set: &RubricSet) -> String {
    let heading = |theme: &Theme| {
        theme
            .name
            .as_ref()
            .map_or_else(String::new, |name| format!("  {name}\n"))
    };
    set.themes.iter().map(|theme| heading(theme) + &tips(theme)).collect()
}

fn tips(theme: &Theme) -> String {
    let line = |(tip, weight): (&str, f64)| match theme.weights.is_empty() {
        true => format!("  - {tip}\n"),
        false => format!("  - [weight {weight}] {tip}\n"),
    };
    theme.weighted().map(line).collect()
}

fn origin(provenance: &Provenance, row: &mut impl FnMut(&str, &str)) {
    let words = [
        ("author", &provenance.author),
        ("created", &provenance.created),
        ("examples", &provenance.examples),
        ("note", &provenance.note),
    ];
    for (name, value) in words {
        if let Some(value) = value {
            row(name, value);
        }
    }
    if let Some(generation) = &provenance.generation {
        row(
            "judge",
            &format!("{} ({})", generation.judge, generation.judge_sha256.short()),
        );
        row("data", &generation.data_sha256.short());
        let prompts = (&generation.prompts, generation.prompts_sha256.short());
        row("prompts", &format!("{} ({})", prompts.0, prompts.1));
        let settings = &generation.settings;
        row(
            "settings",
            &format!(
                "{} criteria for each example, up to {} revisions, up to {} themes, seed {}",
                settings.criteria, settings.rounds, settings.themes, settings.seed
            ),
        );
    }
    if let Some(found) = &provenance.verification {
        let rounds: Vec<String> = found.verified_by_round.iter().map(usize::to_string).collect();
        row(
            "verified",
            &format!(
                "{} of {} examples ({} by revisions 0, 1, ...), {} dropped",
                found.verified,
                found.examples_used,
                rounds.join(", "),
                found.dropped
            ),
        );
        row(
            "selected",
            &format!(
                "{} of {} different criteria",
                found.criteria_selected, found.criteria_verified
            ),
        );
    }
    if let Some(weighing) = &provenance.weighing {
        let lambda = match weighing.folds {
            Some(folds) => format!("by {folds} folds"),
            None => "given".to_owned(),
        };
        row(
            "weighed",
            &format!(
                "on {} pairs of {} ({}) by {} ({}), lambda {:.6} {lambda}; {} criteria dropped",
                weighing.pairs,
                weighing.examples,
                weighing.data_sha256.short(),
                weighing.judge,
                weighing.judge_sha256.short(),
                weighing.lambda,
                weighing.dropped.len()
            ),
        );
    }
    if let Some(structuring) = &provenance.structuring {
        row(
            "structured",
            &format!(
                "asked {} times; criteria left out {}, invented {}, doubled {}; themes too many {}",
                structuring.asked, structuring.lost, structuring.invented, structuring.doubled, structuring.surplus
            ),
        );
    }
}
