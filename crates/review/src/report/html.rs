//! `report.html`: one file, no outside assets, readable in light and dark.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gavel_core::run::StepRecord;
use gavel_core::work::{Reason, Side, Verdict};
use minijinja::{Environment, context};
use serde::Serialize;
use serde_json::Value;

use super::data::Report;
use super::pictures::{Comparison, Picture, Pictures};
use super::probes::{ProbedStep, Probes};
use super::{charts, difference};
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
    /// PNG of the pictures that are edited; empty where nothing is.
    sources: Vec<String>,
    /// PNG of what the task's file says it should come to.
    target: Option<String>,
    /// PNG of what the task's file says may change.
    mask: Option<String>,
    /// The other fields of the task's record, by name.
    fields: Vec<(String, String)>,
    before: PictureCell,
    after: PictureCell,
    /// PNG of what the tuned policy changed of the first source.
    difference: Option<String>,
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
    /// What is preserved of the source, in percent.
    kept: Option<String>,
}

/// Fills the page.
///
/// # Errors
/// A picture cannot be read; the template does not render: a defect.
pub(super) fn render(report: &Report, pictures: &Pictures, probes: &Probes) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.add_template("report.html", include_str!("report.html"))?;
    let grid: Vec<Cell> = pictures.0.iter().take(GRID).map(cell).collect::<Result<_, _>>()?;
    let axes = report.evaluation.as_ref().and_then(|evaluation| evaluation.axes);
    let page = context! {
        report,
        charts => charts(&report.steps),
        probe_charts => probe_charts(report),
        probe_columns => probes.columns,
        probe_rows => probes.rows.iter().map(probe_row).collect::<Vec<_>>(),
        edits => grid.iter().any(|cell| !cell.sources.is_empty()),
        statement => axes.map(|axes| axes.statement()),
        amplification => difference::AMPLIFICATION,
        grid,
        held_out => pictures.0.len(),
    };
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
    let mut charts = vec![
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
        chart("Ratio deviation", "largest |ratio - 1|", |step| step.ratio_deviation),
        chart("Gradient norm", "before clipping", |step| step.grad_norm),
        chart("Seconds", "from commit to commit", |step| step.seconds.wall),
    ];
    // A policy that is sampled and trained in turn has a ratio of 1: nothing is ever clipped.
    if steps.iter().any(|step| step.clip_fraction > 0.0) {
        charts.push(chart(
            "Clip fraction",
            "share of terms whose ratio was clipped",
            |step| step.clip_fraction,
        ));
    }
    charts
}

/// Win rate and score over the probed steps; none of what was not measured.
fn probe_charts(report: &Report) -> Vec<Chart> {
    let at = |probe: &ProbedStep| f64::from(probe.status.step.0);
    let rated = report
        .probes
        .iter()
        .filter_map(|probe| Some((at(probe), probe.status.win_rate?)));
    let (points, intervals): (Vec<_>, Vec<_>) = rated
        .map(|(step, rate)| ((step, rate.value), (rate.low, rate.high)))
        .unzip();
    let win_rate = Chart {
        title: "Win rate",
        about: "over the base on the prompts of a probe, by the judge, with its 95 % interval",
        svg: charts::shares(&points, &intervals),
    };
    let base = report.probes_base.map(|score| (0.0, score));
    let scores = report.probes.iter().filter_map(|probe| Some((at(probe), probe.score?)));
    let score = Chart {
        title: "Score",
        about: "mean share of facts that hold, by the evaluator that the judge does not use; step 0 is the base",
        svg: charts::shares(&base.into_iter().chain(scores).collect::<Vec<_>>(), &[]),
    };
    let drawn = [win_rate, score].into_iter().filter(|chart| !chart.svg.is_empty());
    drawn.collect()
}

/// A prompt with its pictures as PNG, `None` where there is none yet.
fn probe_row((words, pictures): &(String, Vec<Option<Picture>>)) -> (String, Vec<Option<String>>) {
    let png = |picture: &Option<Picture>| picture.as_ref().map(|picture| STANDARD.encode(&picture.png));
    (words.clone(), pictures.iter().map(png).collect())
}

fn cell(comparison: &Comparison) -> Result<Cell, Error> {
    Ok(Cell {
        prompt: comparison.prompt.clone(),
        sources: comparison
            .sources
            .iter()
            .map(|source| STANDARD.encode(&source.png))
            .collect(),
        target: comparison.target.as_ref().map(|target| STANDARD.encode(&target.png)),
        mask: comparison.mask.as_ref().map(|mask| STANDARD.encode(&mask.png)),
        fields: comparison.fields.iter().map(field).collect(),
        before: picture_cell(&comparison.base),
        after: picture_cell(&comparison.tuned),
        difference: match comparison.sources.first() {
            Some(source) => Some(change(source, &comparison.tuned)?),
            None => None,
        },
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
    })
}

/// A field as people read it: a text without its quotation marks, all else as JSON.
fn field((name, value): (&String, &Value)) -> (String, String) {
    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    (name.clone(), value)
}

fn change(source: &Picture, edited: &Picture) -> Result<String, Error> {
    let fault = |source: image::ImageError| Error::Picture {
        image: edited.digest,
        source: source.into(),
    };
    let png = difference::png(&source.decode()?, &edited.decode()?).map_err(fault)?;
    Ok(STANDARD.encode(png))
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
    let answer = picture.answer.as_ref();
    let facts = answer.map(|answer| {
        let holding = answer.facts.iter().filter(|fact| fact.holds).count();
        format!("{holding}/{}", answer.facts.iter().count())
    });
    let kept = answer.and_then(|answer| answer.preservation);
    PictureCell {
        png: STANDARD.encode(&picture.png),
        facts,
        kept: kept.map(|share| format!("{:.1} %", 100.0 * share)),
    }
}
