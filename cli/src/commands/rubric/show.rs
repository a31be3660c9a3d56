//! `gavel rubric show`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use gavel_rubric::{Provenance, RubricSet};
use serde_json::json;

use crate::commands::print_json;
use crate::diagnostic::Result;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// Rubric set (TOML), or bare text with a criterion on each line.
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Print it as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn show(arguments: &ShowArguments) -> Result<()> {
    let rubric = RubricSet::load(&arguments.file)?;
    if arguments.json {
        return print_json(&json!({
            "sha256": rubric.digest(),
            "criteria": rubric.criteria().count(),
            "rubric": rubric,
        }));
    }
    output::print(describe(&rubric))
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
        let _ = writeln!(text, "\n{}", theme.name.as_deref().unwrap_or("(no theme)"));
        for tip in &theme.tips {
            let _ = writeln!(text, "  - {}", tip.trim());
        }
    }
    text
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
