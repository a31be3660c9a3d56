//! The files that a configuration names, read and checked before anything starts.

mod labelled;
mod prompts;

use std::collections::BTreeMap;
use std::path::Path;

use gavel_core::ids::Digest;
use gavel_core::spec::{EvaluatorName, InProcessSpec, MemberSpec, ReasonsSpec, RunSpec};
use gavel_core::work::Task;
use gavel_core::{LabelledPair, ModelFingerprints, RubricText, RunAssets};
use gavel_eval::Evaluator;
use gavel_models::Family;
use gavel_models::load::fingerprint;
use gavel_rubric::{JudgeTemplate, ReasonTemplate, RubricSet};

use crate::checks::Checks;
use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::files::read_text;

/// A run's files. `pictures` are those that the assets name by hash ([`RunAssets::blobs`]); they have to be stored as blobs
/// before the run is submitted.
pub(crate) struct Files {
    pub(crate) assets: RunAssets,
    pub(crate) pictures: Pictures,
}

/// The bytes of pictures, by hash.
pub(crate) type Pictures = BTreeMap<Digest, Vec<u8>>;

/// Reads every file but the model folders.
///
/// # Errors
/// The first file that cannot be used, with the line or key.
pub(crate) fn read(spec: &RunSpec) -> Result<Files> {
    let mut checks = Checks::default();
    match read_all(spec, &mut checks) {
        Some(files) => Ok(files),
        None => Err(checks.problems().swap_remove(0)),
    }
}

/// As [`read`], noting what is wrong with each of the files. `None` when there is a problem.
pub(crate) fn read_all(spec: &RunSpec, checks: &mut Checks) -> Option<Files> {
    let mut pictures = Pictures::new();
    let edits = takes_sources(spec);
    let prompts = prompts::read(&spec.prompts.train, edits, &mut pictures);
    let prompts = checks.note(prompts.context("`prompts.train` cannot be used"));
    let held_out = held_out(spec, edits, &mut pictures);
    let held_out = checks.note(held_out.context("`prompts.held_out` cannot be used"));
    let rubric = checks.note(RubricSet::load(&spec.judge.rubric));
    let template = checks.note(template(spec));
    let member_templates = checks.note(member_templates(spec));
    let reasons = spec.judge.reasons.as_ref();
    let reason_template = reasons.map(|reasons| checks.note(reason_template(reasons)));
    let labelled = labelled(spec, edits, &mut pictures);
    let labelled = checks.note(labelled.context("`evaluation.labelled` cannot be used"));
    let assets = RunAssets {
        prompts: prompts?,
        held_out: held_out?,
        rubric: RubricText::new(rubric?.text()),
        template: template?,
        member_templates: member_templates?,
        reason_template: match reason_template {
            Some(read) => Some(read?),
            None => None,
        },
        labelled: labelled?,
        // Folders that are not there are reported by their own checks; a submitter may do without.
        models: ModelFingerprints {
            transformer: fingerprint(&spec.model.path.join("transformer")).ok(),
            judge: gavel_judge::fingerprint(&spec.judge).ok(),
        },
    };
    Some(Files { assets, pictures })
}

/// Whether the family of `model.family` edits source pictures.
fn takes_sources(spec: &RunSpec) -> bool {
    Family::from_name(spec.model.family.as_str()).is_ok_and(Family::takes_sources)
}

fn held_out(spec: &RunSpec, edits: bool, pictures: &mut Pictures) -> Result<Vec<Task>> {
    let Some(file) = &spec.prompts.held_out else {
        return Ok(Vec::new());
    };
    let prompts = prompts::read(file, edits, pictures)?;
    if let Some(evaluator) = evaluator(spec) {
        for prompt in &prompts {
            evaluator.check_prompt(&prompt.words)?;
        }
    }
    Ok(prompts)
}

fn template(spec: &RunSpec) -> Result<String> {
    JudgeTemplate::load(&spec.judge.template)?;
    read_text(&spec.judge.template)
}

/// The template of each member of an ensemble: its own or, where it names none, the ensemble's.
fn member_templates(spec: &RunSpec) -> Result<Vec<String>> {
    let read = |member: &MemberSpec| {
        let own = Some(&member.template).filter(|file| !file.as_os_str().is_empty());
        let file = own.unwrap_or(&spec.judge.template);
        JudgeTemplate::load(file)?;
        read_text(file)
    };
    spec.judge.back_end.members().iter().map(read).collect()
}

fn reason_template(reasons: &ReasonsSpec) -> Result<String> {
    ReasonTemplate::load(&reasons.template)?;
    read_text(&reasons.template)
}

fn labelled(spec: &RunSpec, edits: bool, pictures: &mut Pictures) -> Result<Vec<LabelledPair>> {
    let evaluation = spec.evaluation.as_ref();
    match evaluation.and_then(|evaluation| evaluation.labelled.as_ref()) {
        Some(file) => labelled::read(file, edits, pictures),
        None => Ok(Vec::new()),
    }
}

/// Says whether the base model's folder is there, by the file that it must have.
///
/// # Errors
/// It is no model folder of its kind.
pub(crate) fn check_model_folder(spec: &RunSpec) -> Result<()> {
    model_folder(&spec.model.path, "model.path", "model_index.json")
}

/// Says whether the folders of the judges that judge workers host are there.
///
/// # Errors
/// As [`check_model_folder`].
pub(crate) fn check_judge_folders(spec: &RunSpec) -> Result<()> {
    let mut hosted = spec.judge.hosted();
    hosted.try_for_each(|hosted| check_judge_folder(hosted.spec, &hosted.at))
}

/// Says whether the folder of one judge is there; `at` is its table in the configuration.
///
/// # Errors
/// As [`check_model_folder`].
pub(crate) fn check_judge_folder(judge: &InProcessSpec, at: &str) -> Result<()> {
    model_folder(&judge.path, &format!("{at}.path"), "config.json")
}

fn model_folder(folder: &Path, key: &str, marker: &str) -> Result<()> {
    if !folder.is_dir() {
        return Err(Diagnostic::new(format!("`{key}`: there is no folder {}", folder.display()))
            .with_hint("download the model, or correct the path; in the configuration file it is relative to that file, in --set to the current folder"));
    }
    if !folder.join(marker).is_file() {
        return Err(
            Diagnostic::new(format!("`{key}`: {} holds no {marker}", folder.display()))
                .with_hint(format!("name the folder that has {marker} at its root")),
        );
    }
    Ok(())
}

/// The evaluator that `evaluation.evaluator` names.
pub(crate) fn evaluator(spec: &RunSpec) -> Option<Box<dyn Evaluator>> {
    match spec.evaluation.as_ref()?.evaluator? {
        EvaluatorName::Scenes => Some(Box::new(gavel_eval::Scenes)),
    }
}
