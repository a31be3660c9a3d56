//! `gavel judge` for one pair.

use std::path::Path;

use anyhow::Context as _;
use gavel_core::ids::PromptIndex;
use gavel_core::spec::{InProcessFamily, InProcessSpec, JudgeBackEnd, JudgeSpec, ReasonsSpec, ServerSpec};
use gavel_core::work::{AbstainReason, Side, Verdict, VerdictRecord};
use gavel_judge::{Models, Templates, judge_with};
use gavel_rubric::{JudgeTemplate, JudgedPair, ReasonTemplate, RubricSet, Spent};
use image::RgbImage;
use serde::Serialize;

use crate::args::{ConfigArguments, JudgeArguments};
use crate::config;
use crate::fault::Fault;
use crate::verdicts::VerdictFile;

/// A model folder may say which words its model was trained on.
const FOLDER_TEMPLATE: &str = "judge_template.toml";

/// What `--json` prints.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    record: &'a VerdictRecord,
    judge: &'a str,
    spent: Spent,
}

pub(super) fn judge(arguments: &JudgeArguments) -> anyhow::Result<()> {
    let spec = spec(arguments)?;
    let (Some(prompt), [first, second]) = (&arguments.prompt, arguments.images.as_slice()) else {
        return Err(Fault::new("judging once needs a prompt and two pictures")
            .with_hint("gavel judge --model DIR --rubric FILE --prompt TEXT A.png B.png")
            .into());
    };
    let rubric = RubricSet::load(&spec.rubric)?;
    let templates = templates(arguments, &spec)?;
    let (first, second) = (picture(first)?, picture(second)?);
    let base = arguments.base.as_deref().map(picture).transpose()?;
    let reasons = reasons(arguments, &spec)?;
    let mut models = Models::default();
    let judge = models.open(&spec, &templates)?;
    let pair = JudgedPair {
        prompt: PromptIndex(0),
        caption: prompt,
        base: base.as_ref(),
        first: &first,
        second: &second,
    };
    let cache = arguments.cache.as_deref().map(VerdictFile::open).transpose()?;
    let ask = |rubric: &RubricSet, pairs: &[JudgedPair<'_>]| match &cache {
        Some(cache) => judge_with(cache, judge.as_ref(), rubric, pairs),
        None => judge.judge(rubric, pairs),
    };
    let mut record = ask(&rubric, &[pair])?
        .into_iter()
        .next()
        .context("the judge gave no verdict")?;
    let mut written = Spent::default();
    if let Some((template, max_tokens)) = reasons {
        let explainer = models.open_explainer(&spec, template, max_tokens)?;
        record.reasons = explainer
            .explain(&rubric, &[pair], ask)?
            .into_iter()
            .flatten()
            .collect();
        written = explainer.spent();
    }
    let mut spent = judge.spent();
    spent.add(&written);
    if arguments.json {
        let told = Told {
            record: &record,
            judge: judge.name(),
            spent,
        };
        println!("{}", serde_json::to_string_pretty(&told).context("cannot write JSON")?);
    } else {
        print!("{}", describe(&record, &spent, &templates));
    }
    Ok(())
}

/// The judge that the arguments name, in the terms of a configuration.
fn spec(arguments: &JudgeArguments) -> anyhow::Result<JudgeSpec> {
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

fn templates(arguments: &JudgeArguments, spec: &JudgeSpec) -> anyhow::Result<Templates> {
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
fn reasons(arguments: &JudgeArguments, spec: &JudgeSpec) -> anyhow::Result<Option<(ReasonTemplate, u32)>> {
    let configured = spec.reasons.as_ref();
    let file = arguments
        .reasons
        .as_ref()
        .or(configured.map(|reasons| &reasons.template));
    let Some(file) = file else { return Ok(None) };
    let max_tokens = configured.map_or_else(|| ReasonsSpec::default().max_tokens, |reasons| reasons.max_tokens);
    Ok(Some((ReasonTemplate::load(file)?, max_tokens)))
}

fn picture(file: &Path) -> anyhow::Result<RgbImage> {
    let picture = image::open(file).with_context(|| {
        Fault::new(format!("{}: cannot read the picture", file.display())).with_hint("give two PNG, JPEG or WebP files")
    })?;
    Ok(picture.to_rgb8())
}

fn why(reason: AbstainReason) -> &'static str {
    match reason {
        AbstainReason::OrdersDisagree => "the two image orders gave different answers",
        AbstainReason::TooClose => "the probability is too close to one half",
        AbstainReason::OutsideLabels => "the likeliest answer was none of the labels",
        AbstainReason::NoMajority => "the members' votes are tied",
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
            "  {} (weight {}): {}\n",
            vote.judge,
            vote.weight,
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
