//! `report.html`: one file, no outside assets, readable in light and dark.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gavel_core::run::StepRecord;
use gavel_core::work::{Reason, Side, Verdict};
use minijinja::{Environment, context};
use serde::Serialize;

use super::charts;
use super::data::Report;
use super::pictures::{Comparison, Picture, Pictures};
use crate::Error;

/// Prompts in the grid; every one counts in the figures.
const GRID: usize = 36;

#[derive(Serialize)]
struct Chart {
    title: &'static str,
    about: &'static str,
    svg: String,
}

#[derive(Serialize)]
struct Cell {
    prompt: String,
    before: PictureCell,
    after: PictureCell,
    verdict: &'static str,
    reasons: Vec<ThemeVerdict>,
}

/// What a theme of the rubric says.
#[derive(Serialize)]
struct ThemeVerdict {
    theme: String,
    verdict: &'static str,
    sentence: Option<String>,
}

#[derive(Serialize)]
struct PictureCell {
    png: String,
    /// Facts that hold, as `4/5`.
    facts: Option<String>,
}

/// Fills the page.
///
/// # Errors
/// The template does not render: a defect.
pub(super) fn render(report: &Report, pictures: &Pictures) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.add_template("report.html", include_str!("report.html"))?;
    let grid: Vec<Cell> = pictures.0.iter().take(GRID).map(cell).collect();
    let page = context! { report, charts => charts(&report.steps), grid, held_out => pictures.0.len() };
    Ok(environment.get_template("report.html")?.render(page)?)
}

fn charts(steps: &[StepRecord]) -> Vec<Chart> {
    let chart = |title, about, value: fn(&StepRecord) -> f64| {
        let points: Vec<(f64, f64)> = steps.iter().map(|step| (f64::from(step.step.0), value(step))).collect();
        Chart {
            title,
            about,
            svg: charts::line(&points),
        }
    };
    vec![
        chart("Reward", "mean over the candidates of decided pairs", |step| {
            step.reward_mean
        }),
        chart(
            "Decided pairs",
            "share of the step's pairs with a verdict in both image orders",
            |step| f64::from(step.decided) / f64::from(step.pairs.max(1)),
        ),
        chart(
            "Order consistency",
            "share of judged pairs whose two image orders agree",
            |step| step.order_consistency,
        ),
        chart("KL", "mean estimate against the base, per trained term", |step| step.kl),
        chart("Clip fraction", "share of terms whose ratio was clipped", |step| {
            step.clip_fraction
        }),
        chart("Ratio deviation", "largest |ratio - 1|", |step| step.ratio_deviation),
        chart("Gradient norm", "before clipping", |step| step.grad_norm),
        chart("Seconds", "from commit to commit", |step| step.seconds.wall),
    ]
}

fn cell(comparison: &Comparison) -> Cell {
    Cell {
        prompt: comparison.prompt.clone(),
        before: picture_cell(&comparison.base),
        after: picture_cell(&comparison.tuned),
        reasons: comparison
            .verdict
            .iter()
            .flat_map(|record| &record.reasons)
            .map(theme_verdict)
            .collect(),
        verdict: match comparison.verdict.as_ref().map(|record| &record.verdict) {
            Some(Verdict::Preferred { side: Side::Second }) => "judge: after",
            Some(Verdict::Preferred { side: Side::First }) => "judge: before",
            Some(Verdict::Abstain { .. }) => "judge: no preference",
            Some(Verdict::Failed { .. }) => "judge: failed",
            None => "not judged",
        },
    }
}

fn theme_verdict(reason: &Reason) -> ThemeVerdict {
    ThemeVerdict {
        theme: reason.theme.clone().unwrap_or_else(|| "rubric".into()),
        verdict: match reason.verdict {
            Verdict::Preferred { side: Side::First } => "before",
            Verdict::Preferred { side: Side::Second } => "after",
            Verdict::Abstain { .. } | Verdict::Failed { .. } => "undecided",
        },
        sentence: reason.sentence.clone(),
    }
}

fn picture_cell(picture: &Picture) -> PictureCell {
    let facts = picture.facts.as_ref().map(|facts| {
        let holding = facts.iter().filter(|fact| fact.holds).count();
        format!("{holding}/{}", facts.iter().count())
    });
    PictureCell {
        png: STANDARD.encode(&picture.png),
        facts,
    }
}
