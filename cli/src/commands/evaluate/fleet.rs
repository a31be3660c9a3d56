//! `gavel evaluate --connect`: a coordinator's workers paint the subjects' pictures, and judge each adapter against the base.

use std::path::Path;
use std::time::Duration;

use gavel_client::{ConnectOptions, Connection};
use gavel_core::ids::{Digest, RunId};
use gavel_core::run::{Phase, RunStatus};
use gavel_core::spec::RunSpec;
use gavel_core::work::{PictureAnswer, VerdictRecord};
use gavel_models::lora::LoraAdapter;
use gavel_review::evaluate::{Pictures, Subject};
use gavel_review::{RunSource as _, ServedRun};

use super::{EvaluateArguments, input};
use crate::assets::{self, Files};
use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::output;
use crate::run::{Lines, Progress, follow};
use crate::runtime::block_on;
use crate::{client, shell};

/// A coordinator is started again within this time, or somebody looks after it.
const PATIENCE: Duration = Duration::from_secs(120);
/// Characters of the hash by which a run of this kind is called.
const NAME_HASH: usize = 16;

/// What the fleet's judges say of two subjects.
pub(super) struct Judged {
    /// The base and an adapter, by their numbers.
    pub(super) subjects: [usize; 2],
    /// The verdicts on their pictures, prompt by prompt.
    pub(super) verdicts: Vec<Option<VerdictRecord>>,
    /// What was answered about the pictures of each, prompt by prompt; empty where nothing is asked.
    pub(super) answers: [Vec<Option<Vec<PictureAnswer>>>; 2],
}

/// Refuses what a fleet cannot do: it compares adapters with the base, in this order.
pub(super) fn check(subjects: &[Subject]) -> Result<()> {
    let adapted = subjects.iter().position(|subject| subject.adapter().is_some());
    let base = subjects.iter().position(Subject::is_base);
    match (base, adapted) {
        (_, None) => Err(Diagnostic::new(
            "--connect has workers compare adapters with the base, and no subject is an adapter",
        )
        .with_hint("leave --connect out: this process paints, or several do with --shard")),
        (Some(base), Some(adapted)) if base > adapted => Err(Diagnostic::new(
            "--connect has workers compare adapters with the base, and the base is named after one",
        )
        .with_hint("name the base first: --subject base --subject tuned=...")),
        _ => Ok(()),
    }
}

/// Submits a run for each adapter, with the questions about each prompt's pictures, follows them all to their ends, and keeps what they painted. A
/// run that is there already, of the same command before, is followed on.
pub(super) fn work(
    addresses: &str,
    arguments: &EvaluateArguments,
    spec: &RunSpec,
    subjects: &[Subject],
    questions: &[Vec<String>],
    pictures: &mut Pictures<'_>,
) -> Result<Vec<Judged>> {
    let prompts = input::prompts(spec, arguments)?;
    block_on(async {
        let options = ConnectOptions::with(addresses, arguments.credentials.read(addresses)?)?;
        let coordinator = Connection::open(&options).await?;
        let mut runs = Vec::new();
        for (number, subject) in subjects.iter().enumerate() {
            let Some(adapter) = subject.adapter() else { continue };
            let prepared = prepare(spec, prompts, questions, &subject.what, adapter);
            let (spec, files) =
                prepared.with_context(|| format!("subject `{}` cannot be given to a fleet", subject.name))?;
            runs.push((number, submit(&coordinator, &spec, &files).await?));
            output::tell(format_args!("run {} evaluates `{}`", spec.run.name, subject.name));
        }
        let base = subjects.iter().position(Subject::is_base);
        let mut judged = Vec::new();
        for (number, run) in runs {
            finish(&coordinator, &run).await?;
            let run = ServedRun::open(coordinator.clone(), &run).await?;
            let results = run.run().await?.results().clone();
            fetch(&run, number, &results.tuned_images, pictures).await?;
            let Some(base) = base else { continue };
            fetch(&run, base, &results.base_images, pictures).await?;
            judged.push(Judged {
                subjects: [base, number],
                verdicts: results.comparisons,
                answers: [results.base_answers, results.tuned_answers],
            });
        }
        Ok(judged)
    })
}

async fn submit(coordinator: &Connection, spec: &RunSpec, files: &Files) -> Result<RunId> {
    let id = spec.id();
    if client::submit(coordinator, spec, files).await?.existed {
        client::resume(coordinator, &id).await?;
    }
    Ok(id)
}

/// Fetches a subject's pictures as far as they are not here.
async fn fetch(run: &ServedRun, subject: usize, images: &[Option<Digest>], pictures: &mut Pictures<'_>) -> Result<()> {
    for prompt in pictures.missing_of(subject) {
        let image = images.get(prompt).copied().flatten();
        let image = image.with_context(|| format!("the fleet has painted no picture of prompt {prompt}"))?;
        let encoded = run
            .blob(&image)
            .await
            .context("a picture that the fleet painted cannot be fetched")?;
        pictures.take(subject, prompt, &encoded)?;
    }
    Ok(())
}

/// Follows a run until it is finished.
async fn finish(coordinator: &Connection, id: &RunId) -> Result<()> {
    let runs = coordinator.runs();
    let mut progress = Progress::start(0, Lines::Told);
    let ended = follow(&runs, id, Some(PATIENCE), async |status: &RunStatus| {
        progress.update(status)
    })
    .await;
    progress.end();
    match ended?.phase {
        Phase::Finished => Ok(()),
        halted => {
            let status = shell::command(["gavel", "status", &id.0, "--connect", coordinator.addresses()]);
            Err(Diagnostic::new(format!("run `{id}`: {halted}"))
                .with_hint(format!("`{status}` tells more; the same command lets it go on")))
        }
    }
}

/// The run that evaluates one adapter, called by a hash of all that it is: it trains nothing, and does nothing that this process does itself.
fn prepare(
    spec: &RunSpec,
    prompts: &Path,
    questions: &[Vec<String>],
    what: &str,
    adapter: &LoraAdapter,
) -> Result<(RunSpec, Files)> {
    let mut spec = spec.clone();
    spec.run.steps = 0;
    prompts.clone_into(&mut spec.prompts.train);
    spec.prompts.held_out = Some(prompts.to_owned());
    spec.stop = None;
    (spec.judge.held_out, spec.judge.writer, spec.judge.reasons) = (None, None, None);
    spec.judge.min_distance = None;
    let evaluation = spec.evaluation.get_or_insert_default();
    (evaluation.evaluator, evaluation.labelled) = (None, None);
    (evaluation.every, evaluation.subset) = (None, None);
    let config = adapter.config();
    spec.lora.rank = config.rank;
    spec.lora.alpha = f64::from(config.alpha);
    spec.lora.target_modules.clone_from(&config.target_modules);
    spec.lora.init = None;
    let mut files = assets::read(&spec)?.beginning_with(&spec, adapter)?;
    spec.lora.init = Some(what.into());
    if questions.iter().any(|questions| !questions.is_empty()) {
        questions.clone_into(&mut files.assets.questions);
        files.assets.check(&spec)?;
    }
    spec.run.name = String::new();
    let whole = serde_json::to_string(&(&spec, &files.assets))?;
    let hash = Digest::of(whole.as_bytes()).to_string();
    spec.run.name = format!("evaluation-{}", &hash[..NAME_HASH]);
    Ok((spec, files))
}
