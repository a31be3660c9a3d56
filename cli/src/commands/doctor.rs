//! `gavel doctor`: everything that can be known before time is spent, all problems at once.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gavel_core::ids::PromptIndex;
use gavel_core::measure::JudgeCounts;
use gavel_core::spec::{GradientExchange, JudgeSpec, RunSpec, SamplingSpec};
use gavel_judge::{Models, Templates};
use gavel_models::load::Placement;
use gavel_models::lora::{LoraAdapter, LoraConfig};
use gavel_models::{Family, denoiser::Task};
use gavel_policy::in_process::{Labelled, judge_counts};
use gavel_policy::{Policy, Prompt, Request, Sampler};
use gavel_rubric::Rubrics;
use gavel_trainer_worker::exchange;

use crate::assets::{self, Files};
use crate::config::{self, ConfigArguments};
use crate::diagnostic::{Context as _, Diagnostic, Foreign as _, Result};
use crate::output;
use crate::preflight::{self, Weights};

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    /// Folder of the run's results [default: runs/<run.name>].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// Labelled pairs that the judge is tried on.
const TRIED_PAIRS: usize = 8;

/// The findings so far.
#[derive(Default)]
struct Table {
    failed: usize,
}

impl Table {
    /// Prints one finding as it comes, and gives what was found if all is well with it.
    fn row<T>(&mut self, name: &str, found: Result<(String, T)>) -> Result<Option<T>> {
        match found {
            Ok((text, value)) => {
                output::print_line(format_args!("ok    {name:<12} {text}"))?;
                Ok(Some(value))
            }
            Err(error) => {
                self.failed += 1;
                let text = error.render().trim_end().replace('\n', "\n                   ");
                let text = text.strip_prefix("error: ").unwrap_or(&text);
                output::print_line(format_args!("FAIL  {name:<12} {text}"))?;
                Ok(None)
            }
        }
    }
}

pub(super) fn doctor(arguments: &DoctorArguments) -> Result<ExitCode> {
    let mut table = Table::default();
    let spec = table.row(
        "config",
        config::load(&arguments.config).map(|spec| (format!("spec {}", spec.digest().short()), spec)),
    )?;
    if let Some(spec) = &spec {
        let files = table.row("files", files(spec))?;
        table.row("model", model(spec, files.as_ref()))?;
        if let Some(files) = &files {
            table.row("prompts", prompts(spec, files).map(only_text))?;
        }
        table.row("judge", judge(spec, files.as_ref()))?;
        if let Some(held_out) = &spec.judge.held_out {
            table.row(
                "held-out judge",
                try_judge(&held_out.judge(), files.as_ref()).map(only_text),
            )?;
        }
        if spec.judge.writer.is_some() {
            table.row("writer", writer(spec, files.as_ref()).map(only_text))?;
        }
        if spec.trainer.exchange == GradientExchange::Nccl {
            table.row("exchange", exchange())?;
        }
        table.row("memory", memory(spec).map(only_text))?;
        let out = config::out_folder(spec, arguments.out.as_deref());
        table.row("folder", preflight::folder(&out).map(only_text))?;
        table.row("ports", preflight::ports(spec).map(only_text))?;
    }
    if table.failed == 0 {
        output::print_line("ready to run")?;
        return Ok(ExitCode::SUCCESS);
    }
    output::print_line(format_args!("{} of the checks failed", table.failed))?;
    Ok(ExitCode::FAILURE)
}

fn files(spec: &RunSpec) -> Result<(String, Files)> {
    let files = assets::read(spec)?;
    let assets = &files.assets;
    let text = format!(
        "{} prompts, {} held out, {} labelled pairs, rubric {}",
        assets.prompts.len(),
        assets.held_out.len(),
        assets.labelled.len(),
        assets.rubric.digest.short()
    );
    Ok((text, files))
}

/// What the user should know of the prompts.
fn prompts(spec: &RunSpec, files: &Files) -> Result<String> {
    let model = Family::from_name(spec.model.family.as_str())?.inspect(&spec.model.path)?;
    let mut notices = files.notices();
    notices.extend(preflight::too_long_prompts(spec, model.as_ref(), &files.assets)?);
    Ok(match notices.is_empty() {
        true => format!("none has more than {} tokens", spec.prompts.max_sequence_length),
        false => notices.join("\n                   "),
    })
}

/// Loads the whole pipeline, paints a picture of one token from the first task in one step, and binds a new adapter.
fn model(spec: &RunSpec, files: Option<&Files>) -> Result<(String, ())> {
    let placement = Placement::of_model(&spec.model)
        .foreign()
        .with_context(|| format!("`model.device`: {} cannot be used", spec.model.device))?;
    let family = Family::from_name(spec.model.family.as_str())?;
    let mut sampler = Sampler::load(family, &spec.model.path, &placement)?;
    let (height, width) = (spec.sampling.height, spec.sampling.width);
    let grid = sampler
        .pipeline()
        .grid(height, width)
        .context("`sampling.width` and `sampling.height`")?;
    if let Some((files, first)) = files.and_then(|files| Some((files, files.assets.prompts.first()?))) {
        let prompt = Prompt {
            index: PromptIndex(0),
            task: Task {
                words: &first.words,
                sources: &files.sources(first)?,
            },
            sources: &first.sources,
        };
        // Small, but through every part of the model: one that is not finite shows.
        let sampling = SamplingSpec {
            steps: 1,
            noise_steps: 1,
            height: height / grid.height,
            width: width / grid.width,
            source_aspect: false,
            ..spec.sampling.clone()
        };
        let request = Request {
            sampling: &sampling,
            ..Request::evaluation(spec, std::slice::from_ref(&prompt))
        };
        sampler
            .sample(Policy::Base, &request)
            .context("the first of `prompts.train` cannot be painted")?;
    }
    let adapter = LoraAdapter::init(sampler.denoiser().layers(), &LoraConfig::from(&spec.lora), [0; 32])?;
    let manifest = adapter.manifest();
    Ok((
        format!(
            "{} adapter tensors bind, {} parameters",
            manifest.tensors, manifest.parameters
        ),
        (),
    ))
}

/// Opens the judge and asks it about labelled pairs, both ways round.
fn judge(spec: &RunSpec, files: Option<&Files>) -> Result<(String, ())> {
    let endpoints = preflight::endpoints(spec)?;
    let found = try_judge(&spec.judge, files)?;
    Ok((endpoints.into_iter().chain([found]).collect::<Vec<_>>().join("; "), ()))
}

/// The same of one judge, be it the held-out one.
fn try_judge(spec: &JudgeSpec, files: Option<&Files>) -> Result<String> {
    let rubrics = Rubrics::load(&spec.rubric)?;
    let judge = gavel_judge::open(spec, &Templates::load(spec)?)?;
    let Some(files) = files.filter(|files| !files.assets.labelled.is_empty()) else {
        return Ok("can be asked; no labelled pairs to try it on".to_owned());
    };
    let tried: Vec<_> = files.assets.labelled.iter().take(TRIED_PAIRS).collect();
    let mut pictures = Vec::with_capacity(tried.len());
    for pair in &tried {
        let shown = (
            files.sources(&pair.task)?,
            files.picture(&pair.first)?,
            files.picture(&pair.second)?,
        );
        pictures.push(shown);
    }
    let labelled: Vec<Labelled<'_>> = tried
        .iter()
        .zip(&pictures)
        .map(|(pair, (sources, first, second))| Labelled {
            task: Task {
                words: &pair.task.words,
                sources,
            },
            sources: &pair.task.sources,
            first,
            second,
            preferred: pair.preferred,
        })
        .collect();
    let JudgeCounts { decided, right, .. } = judge_counts(judge.as_ref(), &rubrics, &labelled)?;
    let tried = labelled.len();
    if decided == 0 {
        return Err(Diagnostic::new(format!("it decides none of {tried} labelled pairs"))
            .with_hint("check that `judge.template` is the one that this judge understands"));
    }
    Ok(format!(
        "decides {decided} of {tried} labelled pairs the same both ways round, {right} of them right"
    ))
}

/// Opens what writes rubrics, and has the first prompt embedded.
fn writer(spec: &RunSpec, files: Option<&Files>) -> Result<String> {
    let mut models = Models::default();
    let writes = models.open_rubric_writer(&spec.judge)?;
    let Some(embedding) = spec.judge.embedding() else {
        return Ok(format!("{} can be asked", writes.name()));
    };
    let embed = models.open_embedding(embedding)?;
    if let Some(first) = files.and_then(|files| files.assets.prompts.first()) {
        embed.embed(&[&first.words])?;
    }
    Ok(format!("{} can be asked, near is by {}", writes.name(), embed.name()))
}

/// Loads what trainers exchange gradient sums with.
fn exchange() -> Result<(String, ())> {
    let found = exchange::of_this_build().check()?;
    Ok((
        format!("{found} can be loaded; whether the trainers reach each other shows in the first step"),
        (),
    ))
}

/// Counted from the headers, so that it is known even where the models cannot be loaded.
fn memory(spec: &RunSpec) -> Result<String> {
    let model = Family::from_name(spec.model.family.as_str())?.inspect(&spec.model.path)?;
    let judges = preflight::judges(spec)?;
    let text_encoder = preflight::text_encoder(spec)?;
    preflight::memory(spec, &Weights::of(spec, model.as_ref(), &judges, text_encoder))
}

fn only_text(text: String) -> (String, ()) {
    (text, ())
}
