//! From a spec to the judge that it names.

use gavel_core::ids::Digest;
use gavel_core::spec::{JudgeBackEnd, JudgeSpec, MemberSpec};
use gavel_core::{HeldOutJudgeAssets, RunAssets};
use gavel_models::clip::Clip;
use gavel_models::vlm::Vlm;
use gavel_rubric::{Chat, Judge, JudgeTemplate, ReasonTemplate};

use crate::embedding::{TextEncoder, embedding_fingerprint};
use crate::loaded::LoadedModels;
use crate::{Error, Explainer};

/// A kind of judge, as the part of the spec that describes it.
pub(crate) trait BackEnd {
    /// What tells one model from another.
    ///
    /// # Errors
    /// [`Error::Load`] when a folder cannot be read.
    fn fingerprint(&self) -> Result<Digest, Error>;

    /// Opens it for verdicts.
    ///
    /// # Errors
    /// [`Error`], with the remedy.
    fn judge(&self, options: &OpenOptions<'_>, models: &mut Models) -> Result<Box<dyn Judge>, Error>;

    /// Opens its model for words.
    ///
    /// # Errors
    /// [`Error`], with the remedy; [`Error::Unfit`] where there is no one model.
    fn chat(&self, models: &mut Models) -> Result<Box<dyn Chat>, Error>;

    /// Questions that may be under way at a time. A model in this process computes with all cores already.
    fn concurrency(&self) -> usize {
        1
    }
}

/// The one place that knows which kinds of judge there are.
pub(crate) fn back_end(spec: &JudgeBackEnd) -> &dyn BackEnd {
    match spec {
        JudgeBackEnd::InProcess(spec) => spec,
        JudgeBackEnd::Server(spec) => spec,
        JudgeBackEnd::Scorer(spec) => spec,
        JudgeBackEnd::Evaluator(spec) => spec,
        JudgeBackEnd::Clip(spec) => spec,
        JudgeBackEnd::Ensemble(spec) => spec,
    }
}

/// How a judge is opened.
pub(crate) struct OpenOptions<'a> {
    pub(crate) template: &'a JudgeTemplate,
    /// For an ensemble's members.
    pub(crate) templates: &'a Templates,
    pub(crate) margin: f64,
}

/// The words that a judge is asked with, and those of its members.
#[derive(Debug, Clone)]
pub struct Templates {
    judge: JudgeTemplate,
    members: Vec<JudgeTemplate>,
}

impl Templates {
    /// The same words for the judge and all its members.
    pub fn one(template: JudgeTemplate) -> Self {
        Self {
            judge: template,
            members: Vec::new(),
        }
    }

    /// Reads the files that the spec names.
    ///
    /// # Errors
    /// [`Error::Template`].
    pub fn load(spec: &JudgeSpec) -> Result<Self, Error> {
        let judge = JudgeTemplate::load(&spec.template)?;
        let member = |member: &MemberSpec| match member.template.as_os_str().is_empty() {
            true => Ok(judge.clone()),
            false => JudgeTemplate::load(&member.template),
        };
        let members = spec.back_end.members().iter().map(member).collect::<Result<_, _>>()?;
        Ok(Self { judge, members })
    }

    /// Reads the texts that a run carries.
    ///
    /// # Errors
    /// [`Error::Template`].
    pub fn of_run(spec: &JudgeSpec, assets: &RunAssets) -> Result<Self, Error> {
        Self::parse(spec, &assets.template, &assets.member_templates)
    }

    /// Reads the texts that a run carries for its held-out judge; `spec` is that judge's.
    ///
    /// # Errors
    /// [`Error::Template`].
    pub fn of_held_out_judge(spec: &JudgeSpec, assets: &HeldOutJudgeAssets) -> Result<Self, Error> {
        Self::parse(spec, &assets.template, &assets.member_templates)
    }

    fn parse(spec: &JudgeSpec, judge: &str, members: &[String]) -> Result<Self, Error> {
        let member = |(text, member): (&String, &MemberSpec)| JudgeTemplate::parse(text, &member.template);
        let members = members.iter().zip(spec.back_end.members()).map(member);
        Ok(Self {
            judge: JudgeTemplate::parse(judge, &spec.template)?,
            members: members.collect::<Result<_, _>>()?,
        })
    }

    /// What people call the judge's.
    pub fn name(&self) -> &str {
        &self.judge.name
    }

    /// The words for a member; those for the judge where the member has none of its own.
    pub(crate) fn member(&self, index: usize) -> &JudgeTemplate {
        self.members.get(index).unwrap_or(&self.judge)
    }
}

/// Opens the judge that `spec` names.
///
/// # Errors
/// [`Error`], with the remedy.
pub fn open(spec: &JudgeSpec, templates: &Templates) -> Result<Box<dyn Judge>, Error> {
    Models::default().open(spec, templates)
}

/// Opens the model that `spec` names, for words instead of verdicts.
///
/// # Errors
/// [`Error`], with the remedy; [`Error::Unfit`] for an ensemble, which does not write.
pub fn open_chat(spec: &JudgeBackEnd) -> Result<Box<dyn Chat>, Error> {
    Models::default().open_chat(spec)
}

/// Questions in words that may be under way at a time to what writes for a judge.
pub fn concurrency(spec: &JudgeSpec) -> usize {
    back_end(writer_of(spec)).concurrency()
}

/// Rubrics and questions that may be under way at a time to what writes them for single prompts.
pub fn rubric_writer_concurrency(spec: &JudgeSpec) -> usize {
    back_end(rubric_writer_of(spec)).concurrency()
}

/// What tells one judge model from another: a folder's weights, a server's address and model name, or an ensemble's members.
///
/// A server's says what was asked, not what answered: whoever puts other weights behind the same name is not noticed.
///
/// # Errors
/// [`Error::Load`] when a folder cannot be read.
pub fn fingerprint(spec: &JudgeSpec) -> Result<Digest, Error> {
    back_end(&spec.back_end).fingerprint()
}

/// What tells the writings of one run from those of another: what writes, what finds the labelled pairs that it is shown, and the judge by
/// which its rubrics are verified, whose fingerprint is `judge`. Of a judge that writes by itself and without an embedding it is the judge's.
///
/// # Errors
/// [`Error::Load`] when a folder cannot be read.
pub fn rubric_writer_fingerprint(spec: &JudgeSpec, judge: Digest) -> Result<Digest, Error> {
    let Some(writer) = spec.writer.as_ref().filter(|writer| writer.has_models()) else {
        return Ok(judge);
    };
    let mut text = format!("rubrics verified by {judge}");
    if let Some(model) = &writer.back_end {
        text += &format!(", written by {}", back_end(model).fingerprint()?);
    }
    if let Some(embedding) = &writer.embedding {
        text += &format!(", near by {}", embedding_fingerprint(embedding)?);
    }
    Ok(Digest::of(text.as_bytes()))
}

/// The models in memory, so that the next run's judge need not load what is there already.
#[derive(Default)]
pub struct Models {
    pub(crate) loaded: LoadedModels<Vlm>,
    pub(crate) clips: LoadedModels<Clip>,
    pub(crate) text_encoders: LoadedModels<TextEncoder>,
}

impl Models {
    /// As [`open`]. Models that neither this judge nor its held-out judge nor its writer needs are freed first: old and new may not fit
    /// together.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(&mut self, spec: &JudgeSpec, templates: &Templates) -> Result<Box<dyn Judge>, Error> {
        self.loaded.retain(spec.models().map(|(_, model)| model));
        self.clips.retain(spec.models().map(|(_, model)| model));
        self.retain_text_encoder(spec.embedding());
        self.open_beside(spec, templates)
    }

    /// As [`open`](Self::open), beside the judges that are open already, none of whose models is freed.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open_beside(&mut self, spec: &JudgeSpec, templates: &Templates) -> Result<Box<dyn Judge>, Error> {
        let options = OpenOptions {
            template: &templates.judge,
            templates,
            margin: spec.margin,
        };
        back_end(&spec.back_end).judge(&options, self)
    }

    /// As [`open_chat`]; a judge of the same folder shares its weights.
    ///
    /// # Errors
    /// As [`open_chat`].
    pub fn open_chat(&mut self, spec: &JudgeBackEnd) -> Result<Box<dyn Chat>, Error> {
        back_end(spec).chat(self)
    }

    /// What explains the judge's verdicts in words of `template`: what writes for the judge.
    ///
    /// # Errors
    /// As [`open_chat`].
    pub fn open_explainer(
        &mut self,
        spec: &JudgeSpec,
        template: ReasonTemplate,
        max_tokens: u32,
    ) -> Result<Explainer, Error> {
        Ok(Explainer::new(
            self.open_writer(spec)?,
            template,
            max_tokens,
            concurrency(spec),
        ))
    }

    /// What writes reasons and answers for a judge: the judge's own model, of an ensemble the first member's that has one.
    ///
    /// # Errors
    /// As [`open_chat`].
    pub fn open_writer(&mut self, spec: &JudgeSpec) -> Result<Box<dyn Chat>, Error> {
        self.open_chat(writer_of(spec))
    }

    /// What writes the rubrics of single prompts, and questions about their pictures: what `[judge.writer]` names, else what writes for the judge.
    ///
    /// # Errors
    /// As [`open_chat`].
    pub fn open_rubric_writer(&mut self, spec: &JudgeSpec) -> Result<Box<dyn Chat>, Error> {
        self.open_chat(rubric_writer_of(spec))
    }
}

/// The back end that writes for a judge.
fn writer_of(spec: &JudgeSpec) -> &JudgeBackEnd {
    spec.back_end.writer().unwrap_or(&spec.back_end)
}

/// The back end that writes for single prompts.
fn rubric_writer_of(spec: &JudgeSpec) -> &JudgeBackEnd {
    spec.rubric_writer().unwrap_or(&spec.back_end)
}
