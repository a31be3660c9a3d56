//! `gavel evaluate`.

mod checks;
mod fleet;
mod input;
mod kept;
mod questions;
mod table;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use gavel_core::spec::{Dtype, RunSpec};
use gavel_eval::Evaluator;
use gavel_judge::Models;
use gavel_models::Family;
use gavel_models::dinov2::Dinov2;
use gavel_models::load::Placement;
use gavel_policy::Sampler;
use gavel_review::evaluate::{
    Evaluation, EvaluationReport, Everywhere, Judging, Pictures, Questioning, Shard, Subject, render,
};
use gavel_rubric::Recorded;
use gavel_rubric::data::Picture;
use gavel_rubric::data::tasks::TaskRecord;
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};

use super::connect::CredentialArguments;
use super::print_json;
use crate::assets;
use crate::config::{self, ConfigArguments};
use crate::diagnostic::{Foreign as _, Result};
use crate::files::write_whole;
use crate::output;

/// What an evaluation leaves in its folder.
const PICTURES: &str = "pictures";
const JSON: &str = "evaluation.json";
const PAGE: &str = "evaluation.html";

/// Most pictures of a prompt: far more than benchmarks have, of which each is painted and compared.
const SAMPLES_MAX: u8 = 64;

#[derive(Debug, Args)]
#[command(
    override_usage = "gavel evaluate CONFIG --subject NAME=WHAT [--subject NAME=WHAT ...] --out DIR [OPTIONS]",
    after_help = "WHAT is one of
  base            the model of the configuration, without an adapter
  DIR or FILE     an adapter: a folder in the PEFT layout, or one weight file
  RUN@STEP        a run's adapter: its folder or its name in runs/, and a number, `latest` or `best`
  DIR             a folder of pictures, each called by its record's `id`, or 0.png, 1.png, ...;
                  with --samples 4 they are 0/0000.png to 0/0003.png, or 0-0.png to 0-3.png

A subject may have a name of its own (tuned=runs/mine@60); otherwise it is called what it is.
docs/evaluation.md says what each figure means."
)]
pub(crate) struct EvaluateArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    /// What is evaluated, and its name; again for each other one.
    #[arg(long = "subject", value_name = "NAME=WHAT", required = true)]
    pub(crate) subjects: Vec<SubjectArgument>,
    /// Prompts or edits, in the forms of `prompts.held_out`, or a folder of text files [default: `prompts.held_out`].
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// Pictures of each prompt, from different noise; of a folder as many as it has of each, such as 7/0000.png, 7/0001.png.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u8).range(1..=i64::from(SAMPLES_MAX))
    )]
    pub(crate) samples: u8,
    /// Tell the figures by the values of this field of the prompts' records too, such as `tag` or `edit_type`.
    #[arg(long, value_name = "FIELD")]
    pub(crate) by: Option<String>,
    /// Compare no two subjects by the judge. Questions that the prompts bring are asked all the same, but for --no-questions.
    #[arg(long)]
    pub(crate) no_judge: bool,
    /// Folder of a DINOv2, in the transformers layout: how alike each edit is to its source by its embeddings.
    #[arg(long, value_name = "DIR")]
    pub(crate) dinov2: Option<PathBuf>,
    /// A table of questions about the prompts' pictures, by the prompts' `id`, in the layout of DPG-Bench [default: the field
    /// `questions` of the prompts' records].
    #[arg(long, value_name = "FILE")]
    pub(crate) questions: Option<PathBuf>,
    /// Do not ask the questions that the prompts bring.
    #[arg(long, conflicts_with = "questions")]
    pub(crate) no_questions: bool,
    /// Have the model that answers questions, or that of `[judge.writer]`, write those of each prompt that brings none, and leave them all
    /// in questions.jsonl, which --prompts reads.
    #[arg(long, conflicts_with = "no_questions")]
    pub(crate) write_questions: bool,
    /// Ask as well whether each picture does what its prompt asks for, and an edit nothing else.
    #[arg(long)]
    pub(crate) fulfilment: bool,
    /// Ask as well how well each picture is made: artifacts and coherence, whatever its prompt.
    #[arg(long)]
    pub(crate) quality: bool,
    /// Paint and ask for one of several parts of the prompts alone, and keep it in --out, which the others share; afterwards the
    /// same command without --shard tells the figures.
    #[arg(long, value_name = "NUMBER/SHARDS", conflicts_with = "json")]
    pub(crate) shard: Option<Shard>,
    /// Have the workers of the coordinator at this address paint, and judge each adapter against the base: a run of 0 steps for each
    /// adapter.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["shard", "no_judge"])]
    pub(crate) connect: Option<String>,
    #[command(flatten)]
    pub(crate) credentials: CredentialArguments,
    /// Folder of pictures, answers, evaluation.json and evaluation.html; the same command goes on with what it holds.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Prompts whose pictures are on the page.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) html_prompts: usize,
    /// Print evaluation.json instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `NAME=WHAT`, or WHAT alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubjectArgument {
    name: String,
    what: String,
}

impl FromStr for SubjectArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, what) = text.split_once('=').unwrap_or((text, text));
        match name.trim().is_empty() || what.trim().is_empty() {
            true => Err("write it as NAME=WHAT, for example tuned=runs/mine@60".to_owned()),
            false => Ok(Self {
                name: name.trim().to_owned(),
                what: what.trim().to_owned(),
            }),
        }
    }
}

pub(super) fn evaluate(arguments: &EvaluateArguments) -> Result<()> {
    input::check_names(&arguments.subjects)?;
    let spec = config::load(&arguments.config)?;
    let tasks = input::read_tasks(&spec, arguments)?;
    let subjects: Vec<Subject> = arguments
        .subjects
        .iter()
        .map(|subject| {
            Ok(Subject::open(
                &subject.name,
                &subject.what,
                &spec,
                &tasks,
                arguments.samples,
            )?)
        })
        .collect::<Result<_>>()?;
    let judges = !arguments.no_judge && subjects.len() > 1;
    input::check_sources(&tasks, arguments)?;
    input::check_samples(arguments)?;
    if arguments.connect.is_some() {
        fleet::check(&subjects)?;
    }
    let mut asked = input::read_questions(&tasks, arguments)?;
    let has_questions = arguments.write_questions || asked.iter().any(|questions| !questions.is_empty());
    let asks = has_questions || arguments.quality || arguments.fulfilment;
    if asks {
        input::check_answers(&spec)?;
    }
    if subjects.iter().any(Subject::is_painted) {
        checks::painted(&spec, input::prompts(&spec, arguments)?, &tasks)?;
    }
    if judges || asks {
        checks::hosted(&spec, arguments.write_questions)?;
    }
    let words = judges.then(|| input::words(&spec, &tasks)).transpose()?;
    // A shard asks, and tells no figures.
    let dinov2 = arguments.dinov2.as_deref().filter(|_| arguments.shard.is_none());
    let dinov2 = dinov2.map(|dir| load_dinov2(&spec, dir)).transpose()?;
    let evaluator = assets::evaluator(&spec).filter(|evaluator| understands(evaluator.as_ref(), &tasks));
    let mut pictures = Pictures::find(
        &spec,
        &tasks,
        &subjects,
        arguments.samples,
        &arguments.out.join(PICTURES),
    )?;
    let stretch = arguments.shard.map(|shard| shard.prompts(tasks.len()));
    if let Some(stretch) = &stretch {
        pictures.only(stretch);
    }
    let kept = match judges || asks {
        true => Some(kept::open(&arguments.out, arguments.shard)?),
        false => None,
    };
    if (judges || asks) && pictures.missing() > 0 {
        checks::servers(&spec, arguments.write_questions)?;
    }
    let mut models = Models::default();
    let author = match (&kept, arguments.write_questions) {
        (Some(kept), true) => {
            let stretch = stretch.clone().unwrap_or(0..tasks.len());
            let author = questions::write_missing(&spec, &tasks, stretch, kept, &mut models, &mut asked)?;
            if arguments.shard.is_none() {
                let file = questions::keep(&arguments.out, &tasks, &asked)?;
                input::check_written(&author, &asked, &file)?;
            }
            Some(author)
        }
        _ => None,
    };
    let writes_apart = spec
        .judge
        .writer
        .as_ref()
        .is_some_and(|writer| writer.back_end.is_some());
    if pictures.missing() > 0 || writes_apart {
        // Whoever paints needs the room, and whoever only writes has written.
        models = Models::default();
    }
    let everywhere = Everywhere {
        quality: arguments.quality,
        fulfilment: arguments.fulfilment,
    };
    let judged = match &arguments.connect {
        Some(addresses) => {
            let lists = asked.iter().zip(&tasks).map(|(own, task)| everywhere.lists(own, task));
            let words = lists.map(|lists| lists.into_iter().flatten().map(|question| question.question).collect());
            let questions: Vec<Vec<String>> = words.collect();
            fleet::work(addresses, arguments, &spec, &subjects, &questions, &mut pictures)?
        }
        None => Vec::new(),
    };
    paint(&spec, &mut pictures)?;
    let judging = match (&words, &kept) {
        (Some((rubrics, templates)), Some(kept)) => Some((models.open(&spec.judge, templates)?, rubrics, kept)),
        _ => None,
    };
    let chat = match asks {
        true => Some(models.open_writer(&spec.judge)?),
        false => None,
    };
    let recorded = Recorded::new(kept.as_ref());
    let evaluation = Evaluation {
        tasks: &tasks,
        subjects: &subjects,
        samples: arguments.samples,
        pictures: &pictures,
        evaluator: evaluator.as_deref(),
        dinov2: dinov2.as_ref(),
        judge: judging.as_ref().map(|(judge, rubrics, kept)| Judging {
            judge: judge.as_ref(),
            rubrics,
            kept: *kept,
            batch: spec.judge.batch,
        }),
        questioning: chat.as_ref().map(|chat| Questioning {
            chat: chat.as_ref(),
            recorded: &recorded,
            concurrency: gavel_judge::concurrency(&spec.judge),
            questions: &asked,
            everywhere,
            author: author.as_ref(),
        }),
        by: arguments.by.as_deref(),
    };
    for given in &judged {
        evaluation.take(given.subjects, &given.verdicts)?;
        for (subject, answers) in given.subjects.into_iter().zip(&given.answers) {
            evaluation.take_answers(subject, answers)?;
        }
    }
    let count = stretch.as_ref().map_or(tasks.len(), |stretch| stretch.len());
    let bar = bar(count, "prompts evaluated");
    if let (Some(stretch), Some(shard)) = (stretch, arguments.shard) {
        let open = evaluation.ask(stretch, &|done| bar.inc(done as u64))?;
        bar.finish_and_clear();
        if open > 0 {
            output::note(format_args!(
                "{open} questions and pairs have no answer, and are asked about again by whoever comes next"
            ));
        }
        return output::print(format_args!(
            "shard {shard}: {count} of {} prompts are kept in {}\nwhen all shards are, the same command without --shard tells the figures\n",
            tasks.len(),
            arguments.out.display()
        ));
    }
    let report = evaluation.report(&|done| bar.inc(done as u64))?;
    bar.finish_and_clear();
    note_unread(evaluator.as_deref(), &report);
    note_unanswered(&report);
    let json = serde_json::to_string_pretty(&report)?;
    write_whole(&arguments.out.join(JSON), &json)?;
    let page = arguments.out.join(PAGE);
    write_whole(&page, &render(&evaluation, &report, arguments.html_prompts)?)?;
    match arguments.json {
        true => print_json(&report),
        false => output::print(table::describe(&report) + &format!("\npage  {}\n", page.display())),
    }
}

/// Loads a DINOv2 to where the model is; it is small, and computes in float32.
fn load_dinov2(spec: &RunSpec, dir: &Path) -> Result<Dinov2> {
    let placement = Placement::open(spec.model.device, Dtype::F32).foreign()?;
    Ok(Dinov2::load(dir, &placement)?)
}

/// Whether the exact rules understand one of the prompts; says so where they do not understand all.
fn understands(evaluator: &dyn Evaluator, tasks: &[TaskRecord]) -> bool {
    let mut others = Vec::new();
    for task in tasks {
        let sources: Vec<RgbImage> = task.sources.iter().map(Picture::image).collect();
        let asked = gavel_eval::Task {
            words: &task.words,
            sources: &sources,
        };
        others.extend(evaluator.check(&asked).err());
    }
    if let Some(first) = others.first() {
        output::note(format_args!(
            "the rules of `{}` say nothing about {} of the {} prompts: {first}",
            evaluator.name(),
            others.len(),
            tasks.len()
        ));
    }
    others.len() < tasks.len()
}

/// Says of which subjects the exact rules read no picture, though they understand the prompts.
fn note_unread(evaluator: Option<&dyn Evaluator>, report: &EvaluationReport) {
    let Some(evaluator) = evaluator else { return };
    let unread = report
        .figures
        .subjects
        .iter()
        .filter(|subject| subject.adherence.is_none());
    for subject in unread {
        output::note(format_args!(
            "the rules of `{}` read no picture of `{}`: they are made for {side} x {side} pixels",
            evaluator.name(),
            subject.subject,
            side = evaluator.side()
        ));
    }
}

/// Says why the first of the questions that nothing could be answered to has no answer.
fn note_unanswered(report: &EvaluationReport) {
    let pictures = report.prompts.iter().flat_map(|prompt| &prompt.pictures);
    let reasons: Vec<&String> = pictures
        .flat_map(|picture| picture.asked())
        .filter_map(|question| question.unanswered.as_ref())
        .collect();
    if let Some(reason) = reasons.first() {
        output::note(format_args!("{} questions could not be asked: {reason}", reasons.len()));
    }
}

/// Paints what is missing. The model is in memory for that long, and gone before the judge comes.
fn paint(spec: &RunSpec, pictures: &mut Pictures<'_>) -> Result<()> {
    if pictures.missing() == 0 {
        return Ok(());
    }
    let family = Family::from_name(spec.model.family.as_str())?;
    let placement = Placement::of_model(&spec.model).foreign()?;
    let mut sampler = Sampler::load(family, &spec.model.path, &placement)?;
    let bar = bar(pictures.missing(), "pictures painted");
    pictures.paint(&mut sampler, &|done| bar.inc(done as u64))?;
    bar.finish_and_clear();
    Ok(())
}

fn bar(count: usize, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(count as u64);
    bar.set_style(
        ProgressStyle::with_template("{spinner} [{bar:24}] {pos}/{len} {msg}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> "),
    );
    bar.set_message(what.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_a_name_or_is_called_what_it_is() {
        let subject = |name: &str, what: &str| {
            Ok(SubjectArgument {
                name: name.to_owned(),
                what: what.to_owned(),
            })
        };
        assert_eq!("tuned=runs/a@6".parse(), subject("tuned", "runs/a@6"));
        assert_eq!("base".parse(), subject("base", "base"));
        assert_eq!("a = b=c".parse(), subject("a", "b=c"));
        for wrong in ["", "=base", "a=", " = "] {
            assert!(wrong.parse::<SubjectArgument>().is_err(), "{wrong}");
        }
    }
}
