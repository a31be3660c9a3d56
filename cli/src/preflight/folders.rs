//! The model folders, by settings and headers.

use std::time::Duration;

use gavel_core::RunAssets;
use gavel_core::spec::{
    Duty, EmbeddingServerSpec, EmbeddingSpec, InProcessSpec, NamedJudge, RunSpec, ScorerSpec, ServerSpec,
};
use gavel_core::work::Task;
use gavel_judge::{Endpoint, ScoreServer, check_question, text_encoder_parameters};
use gavel_models::clip::Clip;
use gavel_models::load::{self, Placement};
use gavel_models::lora::LoraConfig;
use gavel_models::vlm::VlmInspection;
use gavel_models::{Family, denoiser::Inspection};
use gavel_rubric::{JudgeTemplate, RubricSet};

use crate::assets::{self, Files};
use crate::diagnostic::{Context as _, Diagnostic, Foreign as _, Result};

/// How long a server may take to say which models it has.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// The base model's folder is complete, and its device can be used.
pub(super) fn model(spec: &RunSpec) -> Result<Box<dyn Inspection>> {
    let family = Family::from_name(spec.model.family.as_str()).context("`model.family`")?;
    assets::check_model_folder(spec)?;
    Placement::of_model(&spec.model)
        .foreign()
        .with_context(|| format!("`model.device`: {} cannot be used", spec.model.device))?;
    family.inspect(&spec.model.path).context("`model.path` cannot be used")
}

/// `lora` binds to the denoiser.
pub(super) fn adapter(spec: &RunSpec, model: &dyn Inspection) -> Result<()> {
    model
        .bind(&LoraConfig::from(&spec.lora))
        .context("`lora` does not fit the model")?;
    Ok(())
}

/// Pictures of this size can be painted.
pub(crate) fn size(spec: &RunSpec, model: &dyn Inspection) -> Result<()> {
    model
        .grid(spec.sampling.height, spec.sampling.width)
        .context("`sampling.width` and `sampling.height`")?;
    Ok(())
}

/// Each task has as many source pictures as the model takes. Files that cannot be read are told elsewhere.
pub(super) fn sources(model: &dyn Inspection, files: Option<&Files>) -> Result<()> {
    let Some(files) = files else { return Ok(()) };
    lists(&files.assets)
        .into_iter()
        .try_for_each(|(key, tasks)| source_counts(model, key, tasks.iter().map(|task| task.sources.len())))
}

/// As many source pictures as the model takes; `counts` are those of the records of `key`, which people know the list by.
///
/// # Errors
/// The first record that has another number.
pub(crate) fn source_counts(model: &dyn Inspection, key: &str, counts: impl Iterator<Item = usize>) -> Result<()> {
    let taken = model.source_pictures();
    for (index, count) in counts.enumerate() {
        if !taken.contains(&count) {
            let most = if taken.start() == taken.end() {
                String::new()
            } else {
                format!(" to {}", taken.end())
            };
            return Err(Diagnostic::new(format!(
                "`{key}`: record {index} has {count} source pictures, the model of `model.path` takes {}{most}",
                taken.start()
            ))
            .with_hint("correct the record, or name a model that takes as many"));
        }
    }
    Ok(())
}

/// What the user should know of the run's prompts that are longer than `prompts.max_sequence_length`.
///
/// # Errors
/// As [`too_long`].
pub(crate) fn too_long_prompts(spec: &RunSpec, model: &dyn Inspection, assets: &RunAssets) -> Result<Vec<String>> {
    let mut notices = Vec::new();
    for (key, tasks) in lists(assets) {
        let words: Vec<&str> = tasks.iter().map(|task| task.words.as_str()).collect();
        notices.extend(too_long(spec, model, key, &words)?);
    }
    Ok(notices)
}

/// What the user should know of prompts that are longer than `prompts.max_sequence_length`, if there are any; `key` as in [`source_counts`].
///
/// # Errors
/// Such a prompt of an edit, whose words are not cut.
pub(crate) fn too_long(spec: &RunSpec, model: &dyn Inspection, key: &str, prompts: &[&str]) -> Result<Option<String>> {
    let kept = spec.prompts.max_sequence_length;
    let mut longer = Vec::new();
    for words in prompts {
        let tokens = model.tokens(words);
        longer.push(tokens.with_context(|| format!("`{key}` cannot be encoded"))?);
    }
    longer.retain(|tokens| *tokens > kept);
    let Some(longest) = longer.iter().max() else {
        return Ok(None);
    };
    let found = format!(
        "`{key}`: {} of {} prompts have more tokens than `prompts.max_sequence_length`, {kept}; the longest has {longest}",
        longer.len(),
        prompts.len()
    );
    if *model.source_pictures().start() > 0 {
        return Err(
            Diagnostic::new(format!("{found}, and the words of an edit are not cut"))
                .with_hint("shorten them, or raise `prompts.max_sequence_length`"),
        );
    }
    Ok(Some(format!(
        "{found}. The policy sees the first {kept}, the judge reads them whole"
    )))
}

/// The run's lists of tasks that are painted, by their keys.
fn lists(assets: &RunAssets) -> [(&'static str, &[Task]); 2] {
    [
        ("prompts.train", &assets.prompts),
        ("prompts.held_out", &assets.held_out),
    ]
}

/// A judge that judge workers host and that answers in words, and what its folder holds.
pub(crate) struct HostedJudge<'a> {
    pub(crate) named: NamedJudge<'a, InProcessSpec>,
    pub(crate) folder: VlmInspection,
}

/// The judges that judge workers host: their folders are complete, and their devices can be used.
///
/// # Errors
/// The first that cannot be used, by its key.
pub(crate) fn judges(spec: &RunSpec) -> Result<Vec<HostedJudge<'_>>> {
    for (at, model) in spec.judge.models() {
        assets::check_judge_folder(model.path, &at)?;
        Placement::open(model.device, model.dtype)
            .foreign()
            .with_context(|| format!("`{at}.device`: {} cannot be used", model.device))?;
    }
    for clip in spec.judge.clips() {
        Clip::check(&clip.spec.path).with_context(|| format!("`{}.path` cannot be used", clip.at()))?;
        if let Some(head) = &clip.spec.head {
            let dir = clip.spec.path.join(head);
            load::fingerprint(&dir).with_context(|| format!("`{}.head` cannot be used", clip.at()))?;
        }
    }
    spec.judge.hosted().map(judge).collect()
}

fn judge(named: NamedJudge<'_, InProcessSpec>) -> Result<HostedJudge<'_>> {
    let folder = VlmInspection::read(&named.spec.path);
    let folder = folder.with_context(|| format!("`{}.path` cannot be used", named.at()))?;
    Ok(HostedJudge { named, folder })
}

/// Numbers in the weights of the text encoder that embeds prompts for the writer of rubrics; none where there is none.
///
/// # Errors
/// The folder has none.
pub(crate) fn text_encoder(spec: &RunSpec) -> Result<u64> {
    match spec.judge.embedding() {
        Some(EmbeddingSpec::TextEncoder(encoder)) => {
            text_encoder_parameters(encoder).context("`judge.writer.embedding.path` cannot be used")
        }
        Some(EmbeddingSpec::Server(_)) | None => Ok(0),
    }
}

/// Servers that local judges are to ask answer, and take the key.
///
/// # Errors
/// The first that does not.
pub(crate) fn endpoints(spec: &RunSpec) -> Result<Vec<String>> {
    let check = |server: ServerSpec| {
        // Somebody waits: what does not answer soon is told now.
        let hasty = ServerSpec {
            attempts: 1,
            timeout: server.timeout.min(ANSWERS_WITHIN),
            ..server
        };
        Ok(Endpoint::new(&hasty)?.check()?)
    };
    let scores = |NamedJudge { spec: server, .. }: NamedJudge<'_, ScorerSpec>| {
        let hasty = ScorerSpec {
            attempts: 1,
            timeout: server.timeout.min(ANSWERS_WITHIN),
            ..server.clone()
        };
        Ok(ScoreServer::new(&hasty)?.check()?)
    };
    let scorers = spec.judge.scorers().map(scores);
    let servers = spec.judge.servers().map(|named| named.spec.clone());
    let embeds = match spec.judge.embedding() {
        Some(EmbeddingSpec::Server(server)) => Some(EmbeddingServerSpec::server(server)),
        Some(EmbeddingSpec::TextEncoder(_)) | None => None,
    };
    servers.chain(embeds).map(check).chain(scorers).collect()
}

/// The judge's model understands the template's question. Template and rubric that cannot be read are told elsewhere.
pub(super) fn question(spec: &RunSpec, judge: &HostedJudge<'_>, files: Option<&Files>) -> Result<()> {
    let Some(files) = files else { return Ok(()) };
    let assets = &files.assets;
    let (rubric, own, members) = match (judge.named.duty, &assets.held_out_judge) {
        // It gives no verdict.
        (Duty::RubricWriter, _) => return Ok(()),
        (Duty::HeldOutJudge, Some(held_out)) => (&held_out.rubric, &held_out.template, &held_out.member_templates),
        (Duty::HeldOutJudge, None) | (Duty::Judge, _) => (&assets.rubric, &assets.template, &assets.member_templates),
    };
    let text = judge.named.member.and_then(|index| members.get(index)).unwrap_or(own);
    let template = JudgeTemplate::parse(text, &spec.judge.template)?;
    let rubric = RubricSet::from_text(&rubric.text).context("the rubric holds no criterion")?;
    let at = judge.named.at();
    check_question(&judge.folder, &template, &rubric)
        .with_context(|| format!("`{at}.template` does not fit `{at}.path`"))
}
