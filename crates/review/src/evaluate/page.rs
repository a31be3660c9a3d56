//! The page of an evaluation: one file, no outside assets, nothing in it runs.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gavel_coordinator::web;
use gavel_core::measure::Proportion;
use gavel_core::work::{Side, Verdict};
use gavel_eval::Facts;
use gavel_rubric::data::Picture;
use image::{DynamicImage, ImageFormat};
use minijinja::{Environment, context};
use serde::Serialize;

use super::figures::{Figures, SubjectFigures};
use super::{Error, Evaluation, EvaluationReport, PairVerdict, PictureAnswers, PromptAnswers};

/// Longest side, in pixels, of a picture on the page.
const SIDE: u32 = 384;

#[derive(Serialize)]
struct Row {
    name: String,
    values: Vec<String>,
}

#[derive(Serialize)]
struct Pair {
    names: String,
    win_rate: String,
    counts: String,
    first_shown: String,
    orders_agree: String,
}

#[derive(Serialize)]
struct Table {
    title: String,
    rows: Vec<Row>,
    pairs: Vec<Pair>,
}

#[derive(Serialize)]
struct Card {
    prompt: String,
    sources: Vec<String>,
    pictures: Vec<Shown>,
    verdicts: Vec<String>,
}

#[derive(Serialize)]
struct Shown {
    subject: String,
    url: String,
    about: String,
}

/// Fills the page with the figures and the pictures of the first `prompts_max` prompts.
///
/// # Errors
/// A picture is not there or cannot be scaled; the template does not render: a defect.
pub fn render(evaluation: &Evaluation<'_>, report: &EvaluationReport, prompts_max: usize) -> Result<String, Error> {
    let fault = |error: minijinja::Error| Error::Page(error.into());
    let mut tables = vec![table(
        format!("All {} prompts", report.figures.prompts),
        &report.figures,
    )];
    tables.extend(report.groups.iter().map(|group| {
        let value = group.value.as_deref().unwrap_or("without a value");
        table(format!("{value}: {} prompts", group.figures.prompts), &group.figures)
    }));
    let mut cards = Vec::new();
    for (index, answers) in report.prompts.iter().enumerate().take(prompts_max) {
        cards.push(card(evaluation, index, answers)?);
    }
    let mut environment = Environment::new();
    environment
        .add_template("page.html", include_str!("page.html"))
        .map_err(fault)?;
    let page = context! {
        report,
        style => web::PAGE_STYLE,
        icon => STANDARD.encode(web::FAVICON),
        tables,
        cards,
        prompts => report.prompts.len(),
    };
    environment
        .get_template("page.html")
        .and_then(|template| template.render(page))
        .map_err(fault)
}

fn table(title: String, figures: &Figures) -> Table {
    let pairs = figures.pairs.iter().map(|pair| {
        let [first, second] = &pair.subjects;
        Pair {
            names: format!("{second} over {first}"),
            win_rate: pair
                .win_rate
                .map_or_else(nothing, |rate| interval(rate.value, rate.low, rate.high)),
            counts: pair.win_rate.map_or_else(nothing, |rate| {
                format!(
                    "{} won, {} lost, {} without preference, {} failed",
                    rate.wins, rate.losses, rate.abstained, rate.failed
                )
            }),
            first_shown: pair.first_shown_chosen.map_or_else(nothing, proportion),
            orders_agree: pair.order_consistency.map_or_else(nothing, proportion),
        }
    });
    Table {
        title,
        rows: figures
            .rows()
            .into_iter()
            .map(|(name, values)| Row { name, values })
            .collect(),
        pairs: pairs.collect(),
    }
}

impl Figures {
    /// The figures of the subjects as people read them: a name, and the value of each subject.
    pub fn rows(&self) -> Vec<(String, Vec<String>)> {
        let mut rows: Vec<(String, Vec<String>)> = Vec::new();
        let mut row = |name: &str, value: &dyn Fn(&SubjectFigures) -> Option<String>| {
            let values: Vec<Option<String>> = self.subjects.iter().map(value).collect();
            if values.iter().any(Option::is_some) {
                let values = values.into_iter().map(|value| value.unwrap_or_else(nothing));
                rows.push((name.to_owned(), values.collect()));
            }
        };
        row("facts that hold", &|one| {
            Some(format!("{:.3}", one.adherence.as_ref()?.mean))
        });
        row("every fact holds", &|one| Some(proportion(one.adherence.as_ref()?.all)));
        let kinds = self.subjects.iter().filter_map(|one| one.adherence.as_ref());
        let mut kinds: Vec<&String> = kinds.flat_map(|adherence| adherence.facts.keys()).collect();
        kinds.sort();
        kinds.dedup();
        for kind in kinds {
            row(&format!("  {kind}"), &|one| {
                one.adherence.as_ref()?.facts.get(kind).copied().map(proportion)
            });
        }
        row("questions answered yes", &|one| {
            one.questions.as_ref()?.yes.map(proportion)
        });
        row("every question yes", &|one| one.questions.as_ref()?.all.map(proportion));
        row("questions unanswered", &|one| {
            let unanswered = one.questions.as_ref()?.unanswered;
            (unanswered > 0).then(|| unanswered.to_string())
        });
        row("preservation, by the rules", &|one| {
            Some(format!("{:.3}", one.preservation?))
        });
        row("pixels changed", &|one| {
            Some(format!("{:.1} %", 100.0 * one.source.as_ref()?.changed))
        });
        row("from the source: L1", &|one| {
            Some(format!("{:.4}", one.source.as_ref()?.whole.l1))
        });
        for (place, of) in [
            (
                "outside the edit",
                (|one| one.source.as_ref()?.outside) as fn(&SubjectFigures) -> Option<super::MeanDistance>,
            ),
            ("inside the edit", |one| one.source.as_ref()?.inside),
            ("from the target", |one| one.target),
        ] {
            row(&format!("{place}: L1"), &|one| Some(format!("{:.4}", of(one)?.l1)));
            row(&format!("{place}: PSNR"), &|one| {
                Some(format!("{:.2} dB", of(one)?.psnr?))
            });
            row(&format!("{place}: SSIM"), &|one| Some(format!("{:.4}", of(one)?.ssim?)));
        }
        row("DINOv2 similarity to the source", &|one| {
            Some(format!("{:.4}", one.similarity?))
        });
        row("diversity", &|one| Some(format!("{:.4}", one.diversity?)));
        row("strength", &|one| {
            let strength = one.strength?;
            Some(interval(strength.log_ratio, strength.low, strength.high))
        });
        rows
    }
}

fn nothing() -> String {
    "-".to_owned()
}

fn interval(value: f64, low: f64, high: f64) -> String {
    format!("{value:.2} [{low:.2}, {high:.2}]")
}

fn proportion(share: Proportion) -> String {
    interval(share.value, share.low, share.high)
}

fn card(evaluation: &Evaluation<'_>, index: usize, answers: &PromptAnswers) -> Result<Card, Error> {
    let mut pictures = Vec::new();
    for (subject, answer) in answers.pictures.iter().enumerate() {
        pictures.push(Shown {
            subject: answer.subject.clone(),
            url: data_url(&evaluation.pictures.open(subject, index)?)?,
            about: about(answer),
        });
    }
    let sources = evaluation.tasks[index].sources.iter().map(data_url);
    Ok(Card {
        prompt: answers.prompt.clone(),
        sources: sources.collect::<Result<_, _>>()?,
        pictures,
        verdicts: answers.verdicts.iter().map(said).collect(),
    })
}

fn about(answer: &PictureAnswers) -> String {
    let mut parts = Vec::new();
    if let Some(facts) = &answer.facts {
        let missing: Vec<&str> = failing(facts).collect();
        parts.push(match missing.is_empty() {
            true => "every fact holds".to_owned(),
            false => format!("does not hold: {}", missing.join(", ")),
        });
    }
    let answered = |yes: Option<bool>| answer.questions.iter().filter(move |question| question.yes == yes);
    for (yes, said) in [(Some(false), "no"), (None, "unanswered")] {
        parts.extend(answered(yes).map(|question| format!("{said}: {}", question.question)));
    }
    if !answer.questions.is_empty() && answered(Some(true)).count() == answer.questions.len() {
        parts.push("every question is answered yes".to_owned());
    }
    if let Some(kept) = answer.preservation {
        parts.push(format!("kept {:.1} %", 100.0 * kept));
    }
    if let Some(outside) = answer.source.and_then(|source| source.outside) {
        parts.push(format!("L1 outside the edit {:.4}", outside.l1));
    }
    parts.join("; ")
}

fn failing(facts: &Facts) -> impl Iterator<Item = &str> {
    facts.iter().filter(|fact| !fact.holds).map(|fact| fact.name.as_str())
}

fn said(verdict: &PairVerdict) -> String {
    let [first, second] = &verdict.subjects;
    let record = &verdict.record;
    let decision = match &record.verdict {
        Verdict::Preferred { side: Side::First } => first.clone(),
        Verdict::Preferred { side: Side::Second } => second.clone(),
        Verdict::Abstain { .. } => "no preference".to_owned(),
        Verdict::Failed { reason } => format!("failed: {reason}"),
    };
    let [straight, swapped] = record.order_probabilities;
    format!(
        "{first} or {second}: {decision} (probability of {first}: {straight:.2} shown first, {swapped:.2} shown second)"
    )
}

/// The picture as it is when it is small, and scaled down otherwise.
fn data_url(picture: &Picture) -> Result<String, Error> {
    let fault = |error: image::ImageError| Error::Page(error.into());
    let image = picture.image();
    if image.width().max(image.height()) <= SIDE {
        let format = image::guess_format(&picture.encoded).map_err(fault)?;
        return Ok(url(format, &picture.encoded));
    }
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(image)
        .thumbnail(SIDE, SIDE)
        .write_to(&mut bytes, ImageFormat::Jpeg)
        .map_err(fault)?;
    Ok(url(ImageFormat::Jpeg, bytes.get_ref()))
}

fn url(format: ImageFormat, bytes: &[u8]) -> String {
    format!("data:{};base64,{}", format.to_mime_type(), STANDARD.encode(bytes))
}
