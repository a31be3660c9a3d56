//! `gavel judge` for one pair.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use gavel_core::ids::{Digest, PromptIndex};
use gavel_core::spec::{InProcessFamily, InProcessSpec, JudgeBackEnd, JudgeSpec, ReasonsSpec, ServerSpec};
use gavel_core::work::{AbstainReason, Orders, Side, Spent, Verdict, VerdictRecord};
use gavel_judge::{Models, Templates, judge_with};
use gavel_review::VerdictFile;
use gavel_rubric::data::{Picture, ReadOptions, Transparency};
use gavel_rubric::{JudgeTemplate, JudgedPair, ReasonTemplate, Rubrics};
use image::RgbImage;
use serde::Serialize;

use super::connect::{COORDINATOR, CredentialArguments};
use super::dtype::DtypeArgument;
use super::print_json;
use crate::config::{self, ConfigArguments};
use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::output;
use crate::runtime::ParentArguments;

use super::worker::{AllowFolders, AllowServers, RelocationArguments};

#[derive(Debug, Args)]
#[command(override_usage = "gavel judge --connect ADDRESS
       gavel judge --model DIR --rubric FILE --prompt TEXT [--json] A.png B.png
       gavel judge --endpoint URL --model-name NAME --rubric FILE --prompt TEXT [--json] A.png B.png
       gavel judge --config FILE --prompt TEXT [--json] A.png B.png")]
#[command(group = ArgGroup::new("judge").args(["model", "endpoint", "config"]))]
pub(crate) struct JudgeArguments {
    /// Work as a judge for the coordinator at this address, http://HOST:PORT, or https://HOST:PORT where it encrypts; several,
    /// separated by commas, where others stand by [env: GAVEL_COORDINATOR].
    // Where it is given decides which of two things the command does; so its variable is read in `coordinators`.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = [
        "judge", "rubric", "prompt", "template", "reasons", "json", "cache", "source", "images",
    ])]
    pub(crate) connect: Option<String>,
    #[command(flatten)]
    pub(crate) credentials: CredentialArguments,
    /// Judge once: folder of the vision-language model.
    #[arg(long, value_name = "DIR", requires_all = ["rubric", "prompt", "images"])]
    pub(crate) model: Option<PathBuf>,
    /// Judge once: base address of an OpenAI-compatible server, up to and with /v1.
    #[arg(long, value_name = "URL", requires_all = ["model_name", "rubric", "prompt", "images"])]
    pub(crate) endpoint: Option<String>,
    /// Judge once: the name under which the server knows the model.
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub(crate) model_name: Option<String>,
    /// Judge once: environment variable that holds the server's key.
    #[arg(long, value_name = "VARIABLE", requires = "endpoint")]
    pub(crate) api_key_env: Option<String>,
    /// Judge once: by the [judge] section of a run's configuration.
    #[arg(long, value_name = "FILE", requires_all = ["prompt", "images"])]
    pub(crate) config: Option<PathBuf>,
    /// Judge once: rubric set (TOML), or bare text with a criterion on each line [default: the configuration's].
    #[arg(long, value_name = "FILE", requires = "judge")]
    pub(crate) rubric: Option<PathBuf>,
    /// Judge once: what both pictures were painted from, or how a picture was to be edited.
    #[arg(long, value_name = "TEXT", requires = "judge")]
    pub(crate) prompt: Option<String>,
    /// Judge once: judge template [default: the configuration's, judge_template.toml in the model folder, or the one for large instruction-tuned models].
    #[arg(long, value_name = "FILE", requires = "judge")]
    pub(crate) template: Option<PathBuf>,
    /// Judge once: also say what each theme of the rubric decides, and why, asked in the words of this reason template [default: the configuration's].
    #[arg(long, value_name = "FILE", requires = "judge")]
    pub(crate) reasons: Option<PathBuf>,
    /// Judge once: number format of a model folder.
    #[arg(long, default_value = "f32", value_enum)]
    pub(crate) dtype: DtypeArgument,
    /// Judge once: print the verdict with its evidence as JSON.
    #[arg(long, requires = "judge")]
    pub(crate) json: bool,
    /// Judge once: keep the verdict in this file (SQLite), and ask for nothing that it holds.
    #[arg(long, value_name = "FILE", requires = "judge")]
    pub(crate) cache: Option<PathBuf>,
    /// Judge once: the picture that both are edits of; again for an edit of several.
    #[arg(long, alias = "base", value_name = "IMAGE", requires = "judge")]
    pub(crate) source: Vec<PathBuf>,
    /// Judge once: the two pictures.
    #[arg(value_name = "IMAGE", num_args = 2, requires = "judge")]
    pub(crate) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) parent: ParentArguments,
    #[command(flatten)]
    pub(crate) relocation: RelocationArguments,
    #[command(flatten)]
    pub(crate) folders: AllowFolders,
    #[command(flatten)]
    pub(crate) servers: AllowServers,
}

impl JudgeArguments {
    /// The coordinators to work for; none where one pair is to be judged. A fleet's environment decides it only where the
    /// arguments name no judge of their own.
    ///
    /// # Errors
    /// Neither is named.
    pub(crate) fn coordinators(&self) -> Result<Option<String>> {
        let judges_once = self.model.is_some() || self.endpoint.is_some() || self.config.is_some();
        match &self.connect {
            Some(addresses) => Ok(Some(addresses.clone())),
            None if judges_once => Ok(None),
            None => match std::env::var(COORDINATOR) {
                Ok(addresses) if !addresses.is_empty() => Ok(Some(addresses)),
                _ => Err(Diagnostic::new("neither a coordinator to judge for nor a judge is named").with_hint(format!(
                    "name the coordinator with --connect or in {COORDINATOR}, or a judge with --model, --endpoint or --config"
                ))),
            },
        }
    }
}

/// A model folder may say which words its model was trained on.
const FOLDER_TEMPLATE: &str = "judge_template.toml";

/// What `--json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    record: &'a VerdictRecord,
    judge: &'a str,
    spent: Spent,
}

pub(super) fn judge(arguments: &JudgeArguments) -> Result<()> {
    let spec = spec(arguments)?;
    let (Some(prompt), [first, second]) = (&arguments.prompt, arguments.images.as_slice()) else {
        return Err(Diagnostic::new("judging once needs a prompt and two pictures")
            .with_hint("gavel judge --model DIR --rubric FILE --prompt TEXT A.png B.png"));
    };
    let rubrics = Rubrics::load(&spec.rubric)?;
    let templates = templates(arguments, &spec)?;
    let (first, second) = (picture(first)?, picture(second)?);
    let sources: Vec<RgbImage> = arguments
        .source
        .iter()
        .map(|file| picture(file))
        .collect::<Result<_>>()?;
    let reasons = reasons(arguments, &spec)?;
    let mut models = Models::default();
    let judge = models.open(&spec, &templates)?;
    let pair = JudgedPair {
        prompt_index: PromptIndex(0),
        prompt,
        sources: &sources,
        first: &first,
        second: &second,
        rubric: rubrics.of(prompt, &source_hashes(&arguments.source)?),
        orders: Orders::Both,
        list: &[],
    };
    let cache = arguments.cache.as_deref().map(VerdictFile::open).transpose()?;
    let ask = |pairs: &[JudgedPair<'_>]| match &cache {
        Some(cache) => judge_with(cache, judge.as_ref(), pairs),
        None => judge.judge(pairs),
    };
    let mut record = ask(&[pair])?.into_iter().next().context("the judge gave no verdict")?;
    let mut written = Spent::default();
    if let Some((template, max_tokens)) = reasons {
        let explainer = models.open_explainer(&spec, template, max_tokens)?;
        record.reasons = explainer.explain(&[pair], ask)?.into_iter().flatten().collect();
        written = explainer.spent();
    }
    let mut spent = judge.spent();
    spent.add(&written);
    if arguments.json {
        let printed = Printed {
            record: &record,
            judge: judge.name(),
            spent,
        };
        print_json(&printed)?;
    } else {
        output::print(describe(&record, &spent, &templates))?;
    }
    Ok(())
}

/// The judge that the arguments name, in the terms of a configuration.
fn spec(arguments: &JudgeArguments) -> Result<JudgeSpec> {
    let mut spec = match (&arguments.config, &arguments.endpoint) {
        (Some(file), _) => {
            let file = ConfigArguments {
                file: file.clone(),
                overrides: Vec::new(),
            };
            config::load(&file)?.judge
        }
        (None, Some(endpoint)) => of(ServerSpec {
            endpoint: endpoint.clone(),
            model: arguments.model_name.clone().unwrap_or_default(),
            api_key_env: arguments.api_key_env.clone(),
            ..ServerSpec::default()
        }),
        (None, None) => of(InProcessSpec {
            family: InProcessFamily::Auto,
            path: arguments.model.clone().unwrap_or_default(),
            dtype: arguments.dtype.into(),
            ..InProcessSpec::default()
        }),
    };
    if let Some(rubric) = &arguments.rubric {
        spec.rubric.clone_from(rubric);
    }
    Ok(spec)
}

fn of(back_end: impl Into<JudgeBackEnd>) -> JudgeSpec {
    JudgeSpec {
        back_end: back_end.into(),
        ..JudgeSpec::default()
    }
}

fn templates(arguments: &JudgeArguments, spec: &JudgeSpec) -> Result<Templates> {
    let folder_template = arguments.model.as_ref().map(|folder| folder.join(FOLDER_TEMPLATE));
    let template = match &arguments.template {
        Some(file) => JudgeTemplate::load(file)?,
        None if arguments.config.is_some() => return Ok(Templates::load(spec)?),
        None => {
            if let Some(file) = folder_template.filter(|file| file.is_file()) {
                return Ok(Templates::one(JudgeTemplate::load(&file)?));
            }
            let text = include_str!("../../../configs/judge/instruct.toml");
            JudgeTemplate::parse(text, Path::new("configs/judge/instruct.toml"))?
        }
    };
    Ok(Templates::one(template))
}

/// How sentences are asked for, and their most tokens; none where nobody asked for reasons.
fn reasons(arguments: &JudgeArguments, spec: &JudgeSpec) -> Result<Option<(ReasonTemplate, u32)>> {
    let configured = spec.reasons.as_ref();
    let file = arguments
        .reasons
        .as_ref()
        .or(configured.map(|reasons| &reasons.template));
    let Some(file) = file else { return Ok(None) };
    let max_tokens = configured.map_or_else(|| ReasonsSpec::default().max_tokens, |reasons| reasons.max_tokens);
    Ok(Some((ReasonTemplate::load(file)?, max_tokens)))
}

fn picture(file: &Path) -> Result<RgbImage> {
    Ok(Picture::open(file, &ReadOptions::local())?.image())
}

/// The SHA-256 of pictures as a run stores them, by which a rubric names them.
fn source_hashes(files: &[PathBuf]) -> Result<Vec<Digest>> {
    let options = ReadOptions {
        transparency: Transparency::Dropped,
        ..ReadOptions::local()
    };
    let stored = |file: &PathBuf| Ok(Picture::open(file, &options)?.digest);
    files.iter().map(stored).collect()
}

fn why(reason: AbstainReason) -> &'static str {
    match reason {
        AbstainReason::OrdersDisagree => "the two image orders gave different answers",
        AbstainReason::TooClose => "the probability is too close to one half",
        AbstainReason::OutsideLabels => "the likeliest answer was none of the labels",
        AbstainReason::NoMajority => "the members' votes are tied",
        AbstainReason::Vetoed => "a member with a veto prefers the other",
        AbstainReason::TooAlike => "the two pictures are too alike",
    }
}

fn describe(record: &VerdictRecord, spent: &Spent, templates: &Templates) -> String {
    let [straight, swapped] = record.order_probabilities;
    let mut text = format!(
        "{}\n  probability that the first is better: {:.4} (shown first {straight:.4}, shown second {swapped:.4})\n",
        in_words(&record.verdict),
        record.probability_first
    );
    for vote in &record.votes {
        text += &format!(
            "  {} (weight {}{}): {}\n",
            vote.judge,
            vote.weight,
            if vote.veto { ", a veto" } else { "" },
            in_words(&vote.verdict)
        );
    }
    for reason in &record.reasons {
        text += &format!(
            "  {}: {}\n",
            reason.theme.as_deref().unwrap_or("the rubric's criteria"),
            in_words(&reason.verdict)
        );
        if let Some(sentence) = &reason.sentence {
            text += &format!("    {sentence}\n");
        }
    }
    text += &format!("  rubric {}, template {}\n", record.rubric.short(), templates.name());
    let Spent {
        requests,
        failures,
        usage,
        cost,
    } = spent;
    if *requests > 0 {
        text += &format!(
            "  {requests} requests, {failures} of them failed; {} tokens read, {} written",
            usage.prompt_tokens, usage.completion_tokens
        );
        if let Some(cost) = cost {
            text += &format!("; cost {cost:.6}");
        }
        text.push('\n');
    }
    text
}

fn in_words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Preferred { side: Side::First } => "the first picture is better".to_owned(),
        Verdict::Preferred { side: Side::Second } => "the second picture is better".to_owned(),
        Verdict::Abstain { reason } => format!("no verdict: {}", why(*reason)),
        Verdict::Failed { reason } => format!("failed: {reason}"),
    }
}
