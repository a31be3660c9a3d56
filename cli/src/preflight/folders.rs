//! The model folders, by settings and headers.

use anyhow::Context as _;
use gavel_core::spec::RunSpec;
use gavel_judge::check_question;
use gavel_models::flux::inspect::FluxInspection;
use gavel_models::load::device;
use gavel_models::lora::LoraConfig;
use gavel_models::vlm::VlmInspection;
use gavel_rubric::{JudgeTemplate, RubricSet};

use crate::assets::{self, Files};

/// The base model's folder is complete, and its device can be used.
pub(super) fn model(spec: &RunSpec) -> anyhow::Result<FluxInspection> {
    assets::check_model_folder(spec)?;
    device(spec.model.device).with_context(|| format!("`model.device`: {} cannot be used", spec.model.device))?;
    FluxInspection::read(&spec.model.path).context("`model.path` cannot be used")
}

/// `lora` binds to the transformer.
pub(super) fn adapter(spec: &RunSpec, model: &FluxInspection) -> anyhow::Result<()> {
    model
        .bind(&LoraConfig::from(&spec.lora))
        .context("`lora` does not fit the model")?;
    Ok(())
}

/// Pictures of this size can be painted.
pub(super) fn size(spec: &RunSpec, model: &FluxInspection) -> anyhow::Result<()> {
    model
        .latent_tokens(spec.sampling.height, spec.sampling.width)
        .context("`sampling.width` and `sampling.height`")?;
    Ok(())
}

/// The judge's folder is complete, and its device can be used.
pub(super) fn judge(spec: &RunSpec) -> anyhow::Result<VlmInspection> {
    assets::check_judge_folder(spec)?;
    device(spec.judge.device).with_context(|| format!("`judge.device`: {} cannot be used", spec.judge.device))?;
    VlmInspection::read(&spec.judge.path).context("`judge.path` cannot be used")
}

/// The judge's model understands the template's question. Template and rubric that cannot be read are told elsewhere.
pub(super) fn question(spec: &RunSpec, judge: &VlmInspection, files: Option<&Files>) -> anyhow::Result<()> {
    let Some(files) = files else { return Ok(()) };
    let template = JudgeTemplate::parse(&files.assets.template, &spec.judge.template)?;
    let rubric = RubricSet::from_text(&files.assets.rubric.text).context("`judge.rubric` holds no criterion")?;
    check_question(judge, &template, &rubric).context("`judge.template` does not fit `judge.path`")
}
