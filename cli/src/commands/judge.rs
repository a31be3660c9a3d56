//! `gavel judge` for one pair.

use std::path::Path;

use anyhow::Context as _;
use gavel_core::ids::PromptIndex;
use gavel_core::spec::{JudgeFamily, JudgeSpec};
use gavel_core::verdict::{AbstainReason, Side, Verdict, VerdictRecord};
use gavel_judge::Templates;
use gavel_rubric::{JudgeTemplate, JudgedPair, RubricSet};
use image::RgbImage;

use crate::args::JudgeArguments;
use crate::fault::Fault;

/// A model folder may say which words its model was trained on.
const FOLDER_TEMPLATE: &str = "judge_template.toml";

pub(super) fn judge(arguments: &JudgeArguments) -> anyhow::Result<()> {
    let (Some(model), Some(rubric), Some(prompt), [first, second]) = (
        &arguments.model,
        &arguments.rubric,
        &arguments.prompt,
        arguments.images.as_slice(),
    ) else {
        return Err(
            Fault::new("judging once needs a model, a rubric, a prompt and two pictures")
                .with_hint("gavel judge --model DIR --rubric FILE --prompt TEXT A.png B.png")
                .into(),
        );
    };
    let rubric = RubricSet::load(rubric)?;
    let template = template(model, arguments.template.as_deref())?;
    let (first, second) = (picture(first)?, picture(second)?);
    let name = template.name.clone();
    let spec = JudgeSpec {
        family: JudgeFamily::Auto,
        path: model.clone(),
        dtype: arguments.dtype.into(),
        ..JudgeSpec::default()
    };
    let judge = gavel_judge::open(&spec, &Templates::one(template))?;
    let pair = JudgedPair {
        prompt: PromptIndex(0),
        caption: prompt,
        base: None,
        first: &first,
        second: &second,
    };
    let record = judge.judge(&rubric, &[pair])?.swap_remove(0);
    if arguments.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&record).context("cannot write JSON")?
        );
    } else {
        print!("{}", describe(&record, &name));
    }
    Ok(())
}

fn template(model: &Path, named: Option<&Path>) -> anyhow::Result<JudgeTemplate> {
    let folder_template = model.join(FOLDER_TEMPLATE);
    Ok(match named {
        Some(file) => JudgeTemplate::load(file)?,
        None if folder_template.is_file() => JudgeTemplate::load(&folder_template)?,
        None => {
            let text = include_str!("../../../configs/judge/instruct.toml");
            JudgeTemplate::parse(text, Path::new("configs/judge/instruct.toml"))?
        }
    })
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
    }
}

fn describe(record: &VerdictRecord, template: &str) -> String {
    let verdict = match &record.verdict {
        Verdict::Preferred { side: Side::First } => "the first picture is better".to_owned(),
        Verdict::Preferred { side: Side::Second } => "the second picture is better".to_owned(),
        Verdict::Abstain { reason } => format!("no verdict: {}", why(*reason)),
        Verdict::Failed { reason } => format!("failed: {reason}"),
    };
    let [straight, swapped] = record.order_probabilities;
    format!(
        "{verdict}\n  probability that the first is better: {:.4} (shown first {straight:.4}, shown second {swapped:.4})\n  \
         rubric {}, template {template}\n",
        record.probability_first,
        record.rubric.short()
    )
}
