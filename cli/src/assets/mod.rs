//! The files that a configuration names, read and checked before anything starts.

mod adapter;
mod evaluators;
mod labelled;
mod prompts;
mod rubrics;

use std::collections::BTreeMap;
use std::path::Path;

use gavel_core::ids::{Digest, PromptIndex};
use gavel_core::spec::{JudgeSpec, MemberSpec, OrdersRule, ReasonsSpec, RunSpec, WriterSpec};
use gavel_core::work::Task;
use gavel_core::{Annotation, Annotations, HeldOutJudgeAssets, LabelledPair, ModelFingerprints, RunAssets};
use gavel_eval::Evaluator;
use gavel_models::Family;
use gavel_models::load::fingerprint;
use gavel_models::lora::LoraAdapter;
use gavel_rubric::data::{Picture, ReadOptions};
use gavel_rubric::generate::WriteTemplate;
use gavel_rubric::{JudgeTemplate, ReasonTemplate};
use image::RgbImage;

use self::prompts::Prompts;
use crate::checks::Checks;
use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::files::read_text;

/// A run's files. `pictures`, `rubrics` and `adapter` are what the assets name by hash ([`RunAssets::blobs`]); they have to be stored as blobs
/// before the run is submitted.
pub(crate) struct Files {
    pub(crate) assets: RunAssets,
    pub(crate) pictures: Pictures,
    /// The texts of the rubrics of single prompts, by hash.
    rubrics: rubrics::Texts,
    /// The adapter that policy 0 is, where the run begins with one.
    adapter: Option<Vec<u8>>,
}

impl Files {
    /// What the user should know of them, a line each: fields of the prompts' records that change nothing, with their number of records.
    pub(crate) fn notices(&self) -> Vec<String> {
        let annotations = &self.assets.annotations;
        let files = [
            ("prompts.train", &annotations.prompts),
            ("prompts.held_out", &annotations.held_out),
        ];
        let notice = |(key, given): (&str, &BTreeMap<PromptIndex, Annotation>)| {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for field in given.values().flat_map(|given| given.fields.keys()) {
                *counts.entry(field).or_default() += 1;
            }
            let fields: Vec<String> = counts
                .iter()
                .map(|(field, count)| format!("`{field}` ({count})"))
                .collect();
            let told = format!(
                "`{key}`: fields that change neither a picture nor a verdict: {}",
                fields.join(", ")
            );
            (!fields.is_empty()).then_some(told)
        };
        files.into_iter().filter_map(notice).collect()
    }

    /// The same files of a run that begins with this adapter.
    ///
    /// # Errors
    /// As [`adapter::of`].
    pub(crate) fn beginning_with(mut self, spec: &RunSpec, adapter: &LoraAdapter) -> Result<Self> {
        let bytes = adapter::of(adapter, spec)?;
        self.assets.initial_adapter = Some(Digest::of(&bytes));
        self.adapter = Some(bytes);
        Ok(self)
    }

    /// Everything that has to be stored as blobs, by hash.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = (Digest, &Vec<u8>)> {
        let named = self.pictures.iter().chain(&self.rubrics);
        let named = named.map(|(digest, bytes)| (*digest, bytes));
        named.chain(self.assets.initial_adapter.zip(self.adapter.as_ref()))
    }

    /// The pictures that a task edits.
    ///
    /// # Errors
    /// One is not there or does not decode.
    pub(crate) fn sources(&self, task: &Task) -> Result<Vec<RgbImage>> {
        task.sources.iter().map(|digest| self.picture(digest)).collect()
    }

    /// The picture of that hash.
    ///
    /// # Errors
    /// It is not there or does not decode.
    pub(crate) fn picture(&self, digest: &Digest) -> Result<RgbImage> {
        let bytes = self
            .pictures
            .get(digest)
            .context("a picture of the run's files is missing")?;
        decode(bytes)
    }
}

/// Decodes a picture that was read from a file of the run.
fn decode(bytes: &[u8]) -> Result<RgbImage> {
    Picture::decode(bytes, &ReadOptions::local())
        .map_err(|fault| Diagnostic::of(&fault).caused("a picture of the run's files cannot be used".into()))
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
    let held_out = held_out(spec, edits, &mut pictures).context("`prompts.held_out` cannot be used");
    let held_out = checks.note(check_painted_size(spec).and(held_out));
    let template = checks.note(judge_template(&spec.judge.template, edits));
    let member_templates = checks.note(member_templates(&spec.judge, edits));
    let reasons = spec.judge.reasons.as_ref();
    let reason_template = reasons.map(|reasons| checks.note(reason_template(reasons)));
    let writer = spec.judge.writer.as_ref();
    let writer_template = writer.map(|writer| checks.note(writer_template(writer)));
    let adapter = checks.note(adapter::read(spec).context("`lora.init` cannot be used"));
    let labelled = labelled(spec, edits, &mut pictures);
    let labelled = checks.note(labelled.context("`evaluation.labelled` cannot be used"));
    let tasks = match (&prompts, &held_out, &labelled) {
        (Some(prompts), Some(held_out), Some(labelled)) => {
            let labelled = labelled.iter().map(|pair| &pair.task);
            let tasks = prompts.tasks.iter().chain(&held_out.tasks).chain(labelled);
            Some(rubrics::Tasks::of(tasks))
        }
        _ => None,
    };
    let mut rubric_texts = rubrics::Texts::new();
    let rubric = checks.note(rubrics::read(&spec.judge.rubric, tasks.as_ref(), &mut rubric_texts));
    let held_out_judge = held_out_judge(spec, edits, tasks.as_ref(), &mut rubric_texts);
    let held_out_judge = checks.note(held_out_judge.context("`judge.held_out` cannot be used"));
    drop(tasks);
    if let (Some(prompts), Some(held_out), Some(labelled)) = (&prompts, &held_out, &labelled) {
        let judged = evaluators::Judged {
            prompts: &prompts.tasks,
            held_out: &held_out.tasks,
            labelled,
        };
        checks.note(evaluators::check(spec, &judged, &pictures))?;
    }
    let (rubric, prompt_rubrics) = rubric?;
    let (prompts, held_out, adapter) = (prompts?, held_out?, adapter?);
    let assets = RunAssets {
        prompts: prompts.tasks,
        held_out: held_out.tasks,
        annotations: Annotations {
            prompts: prompts.annotations,
            held_out: held_out.annotations,
        },
        questions: Vec::new(),
        rubric,
        prompt_rubrics,
        template: template?,
        member_templates: member_templates?,
        reason_template: match reason_template {
            Some(read) => Some(read?),
            None => None,
        },
        writer_template: match writer_template {
            Some(read) => Some(read?),
            None => None,
        },
        held_out_judge: held_out_judge?,
        initial_adapter: adapter.as_deref().map(Digest::of),
        labelled: labelled?,
        // Folders that are not there are reported by their own checks; a submitter may do without.
        models: model_fingerprints(spec),
    };
    checks.note(assets.check(spec))?;
    checks.note(check_lists(spec))?;
    Some(Files {
        assets,
        pictures,
        rubrics: rubric_texts,
        adapter,
    })
}

/// Whether the family of `model.family` edits source pictures.
fn takes_sources(spec: &RunSpec) -> bool {
    Family::from_name(spec.model.family.as_str()).is_ok_and(Family::takes_sources)
}

fn held_out(spec: &RunSpec, edits: bool, pictures: &mut Pictures) -> Result<Prompts> {
    let Some(file) = &spec.prompts.held_out else {
        return Ok(Prompts::default());
    };
    let prompts = prompts::read(file, edits, pictures)?;
    if let Some(evaluator) = evaluator(spec) {
        for task in &prompts.tasks {
            check_task(evaluator.as_ref(), task, pictures)?;
        }
    }
    Ok(prompts)
}

/// Says whether the evaluator understands a task, whose sources are among `pictures`.
fn check_task(evaluator: &dyn Evaluator, task: &Task, pictures: &Pictures) -> Result<()> {
    let mut sources = Vec::new();
    for bytes in task.sources.iter().filter_map(|source| pictures.get(source)) {
        sources.push(decode(bytes)?);
    }
    evaluator.check(&gavel_eval::Task {
        words: &task.words,
        sources: &sources,
    })?;
    Ok(())
}

/// Says whether the run paints pictures of the size that the evaluator's rules are made for.
fn check_painted_size(spec: &RunSpec) -> Result<()> {
    let Some(evaluator) = evaluator(spec) else {
        return Ok(());
    };
    evaluators::painted_size(spec, evaluator.as_ref()).context("`evaluation.evaluator` cannot be used")
}

/// Says whether the judge's templates, those of an ensemble's members included, show a source picture exactly where pictures are edited.
///
/// # Errors
/// One does not, or cannot be read.
pub(crate) fn check_judge_templates(judge: &JudgeSpec, edits: bool) -> Result<()> {
    judge_template(&judge.template, edits)?;
    member_templates(judge, edits).map(drop)
}

/// Says whether templates that show lists have a label for each candidate, and are not to be asked in single image orders.
fn check_lists(spec: &RunSpec) -> Result<()> {
    let held_out = spec.judge.held_out.as_ref().map(|held_out| held_out.judge());
    for judge in [Some(&spec.judge), held_out.as_ref()].into_iter().flatten() {
        let members = judge.back_end.members().iter().map(|member| &member.template);
        for file in std::iter::once(&judge.template).chain(members.filter(|file| !file.as_os_str().is_empty())) {
            let template = JudgeTemplate::load(file)?;
            let (labels, candidates) = (template.labels.len(), usize::from(spec.sampling.candidates));
            let problem = match template.shows_list() {
                true if candidates > labels => {
                    format!("has {labels} labels, and `sampling.candidates` is {candidates}: each picture needs one")
                }
                true if judge.orders != OrdersRule::Both => {
                    "shows a list, which has no image orders: `judge.orders` must be left out".to_owned()
                }
                _ => continue,
            };
            return Err(Diagnostic::new(format!("{}: this template {problem}", file.display()))
                .with_hint("a template that shows images 1 and 2 is asked about each pair (docs/judges.md)"));
        }
    }
    Ok(())
}

/// The text of a template that shows the source picture exactly where pictures are edited.
fn judge_template(file: &Path, edits: bool) -> Result<String> {
    let (fault, hint) = match (edits, JudgeTemplate::load(file)?.shows_base()) {
        (true, false) => (
            "this template does not show the picture that is edited",
            "put a part `{ base = true }` before the two candidates, or take a template for edits (docs/judges.md)",
        ),
        (false, true) => (
            "this template shows a picture that is edited, and the family of `model.family` edits none",
            "take a template without `{ base = true }`, or choose a family that edits",
        ),
        _ => return read_text(file),
    };
    Err(Diagnostic::new(format!("{}: {fault}", file.display())).with_hint(hint))
}

/// The template of each member of an ensemble: its own or, where it names none, the ensemble's.
fn member_templates(judge: &JudgeSpec, edits: bool) -> Result<Vec<String>> {
    let read = |member: &MemberSpec| {
        let own = Some(&member.template).filter(|file| !file.as_os_str().is_empty());
        let file = own.unwrap_or(&judge.template);
        judge_template(file, edits)
    };
    judge.back_end.members().iter().map(read).collect()
}

/// What the held-out judge reads, in a run with one.
fn held_out_judge(
    spec: &RunSpec,
    edits: bool,
    tasks: Option<&rubrics::Tasks<'_>>,
    texts: &mut rubrics::Texts,
) -> Result<Option<HeldOutJudgeAssets>> {
    let Some(held_out) = &spec.judge.held_out else {
        return Ok(None);
    };
    let judge = held_out.judge();
    let (rubric, prompt_rubrics) = rubrics::read(&judge.rubric, tasks, texts)?;
    Ok(Some(HeldOutJudgeAssets {
        rubric,
        prompt_rubrics,
        template: judge_template(&judge.template, edits)?,
        member_templates: member_templates(&judge, edits)?,
    }))
}

/// What tells the held-out judge's model from another; none where its folder is not there, or without such a judge.
/// The fingerprints of the models that are on this machine.
fn model_fingerprints(spec: &RunSpec) -> ModelFingerprints {
    let judge = gavel_judge::fingerprint(&spec.judge).ok();
    let held_out = spec.judge.held_out.as_ref();
    let writer = spec.judge.writer.as_ref().filter(|writer| writer.has_models());
    let writer = writer.and(judge);
    ModelFingerprints {
        transformer: fingerprint(&spec.model.path.join("transformer")).ok(),
        judge,
        held_out_judge: held_out.and_then(|held_out| gavel_judge::fingerprint(&held_out.judge()).ok()),
        writer: writer.and_then(|judge| gavel_judge::rubric_writer_fingerprint(&spec.judge, judge).ok()),
    }
}

fn reason_template(reasons: &ReasonsSpec) -> Result<String> {
    ReasonTemplate::load(&reasons.template)?;
    read_text(&reasons.template)
}

fn writer_template(writer: &WriterSpec) -> Result<String> {
    WriteTemplate::load(&writer.template)?;
    read_text(&writer.template)
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
    let mut models = spec.judge.models();
    models.try_for_each(|(at, model)| check_judge_folder(model.path, &at))
}

/// Says whether the folder of one judge is there; `at` is its table in the configuration.
///
/// # Errors
/// As [`check_model_folder`].
pub(crate) fn check_judge_folder(folder: &Path, at: &str) -> Result<()> {
    model_folder(folder, &format!("{at}.path"), "config.json")
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
    Some(gavel_eval::named(spec.evaluation.as_ref()?.evaluator?))
}

#[cfg(test)]
mod tests;
