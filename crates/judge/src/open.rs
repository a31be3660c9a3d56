//! From a spec to the judge that it names.

use std::path::PathBuf;
use std::sync::Arc;

use gavel_core::RunAssets;
use gavel_core::ids::Digest;
use gavel_core::spec::{Device, Dtype, JudgeFamily, JudgeSpec};
use gavel_models::load;
use gavel_models::vlm::Vlm;
use gavel_rubric::{Chat, Judge, JudgeTemplate, ReasonTemplate};
use serde::Deserialize;

use crate::ensemble::Ensemble;
use crate::openai::EndpointJudge;
use crate::{Endpoint, Error, Explainer, VlmJudge, VlmWriter};

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
        let member = |member: &JudgeSpec| match member.template.as_os_str().is_empty() {
            true => Ok(judge.clone()),
            false => JudgeTemplate::load(&member.template),
        };
        let members = spec.members.iter().map(member).collect::<Result<_, _>>()?;
        Ok(Self { judge, members })
    }

    /// Reads the texts that a run carries.
    ///
    /// # Errors
    /// [`Error::Template`].
    pub fn of_run(spec: &JudgeSpec, assets: &RunAssets) -> Result<Self, Error> {
        let member = |(text, member): (&String, &JudgeSpec)| JudgeTemplate::parse(text, &member.template);
        let members = assets.member_templates.iter().zip(&spec.members).map(member);
        Ok(Self {
            judge: JudgeTemplate::parse(&assets.template, &spec.template)?,
            members: members.collect::<Result<_, _>>()?,
        })
    }

    /// What people call the judge's.
    pub fn name(&self) -> &str {
        &self.judge.name
    }

    fn member(&self, index: usize) -> &JudgeTemplate {
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
pub fn open_chat(spec: &JudgeSpec) -> Result<Box<dyn Chat>, Error> {
    Models::default().open_chat(spec)
}

/// What tells one judge model from another: a folder's weights, a server's address and model name, or an ensemble's members.
///
/// A server's says what was asked, not what answered: whoever puts other weights behind the same name is not noticed.
///
/// # Errors
/// [`Error::Load`] when a folder cannot be read.
pub fn fingerprint(spec: &JudgeSpec) -> Result<Digest, Error> {
    Ok(match spec.family {
        JudgeFamily::Auto | JudgeFamily::Qwen2_5Vl | JudgeFamily::Qwen3Vl => load::fingerprint(&spec.path)?,
        JudgeFamily::Openai => {
            let endpoint = spec.endpoint.as_deref().unwrap_or_default().trim_end_matches('/');
            let model = spec.model.as_deref().unwrap_or_default();
            Digest::of(format!("openai {endpoint} {model}").as_bytes())
        }
        JudgeFamily::Ensemble => {
            let mut text = String::from("ensemble");
            for member in &spec.members {
                text += &format!(" {}x{}", member.weight, fingerprint(member)?);
            }
            Digest::of(text.as_bytes())
        }
    })
}

/// The models in memory, so that the next run's judge need not load what is there already.
#[derive(Default)]
pub struct Models {
    loaded: Vec<Loaded>,
}

/// A model with what it was loaded from.
struct Loaded {
    source: Source,
    fingerprint: Digest,
    model: Arc<Vlm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    path: PathBuf,
    device: Device,
    dtype: Dtype,
}

impl Models {
    /// As [`open`].
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(&mut self, spec: &JudgeSpec, templates: &Templates) -> Result<Box<dyn Judge>, Error> {
        // Frees old models first: old and new may not fit together.
        let wanted: Vec<Source> = spec.with_members().map(Source::of).collect();
        self.loaded.retain(|loaded| wanted.contains(&loaded.source));
        self.one(spec, &templates.judge, templates)
    }

    /// As [`open_chat`]; a judge of the same folder shares its weights.
    ///
    /// # Errors
    /// As [`open_chat`].
    pub fn open_chat(&mut self, spec: &JudgeSpec) -> Result<Box<dyn Chat>, Error> {
        Ok(match spec.family {
            JudgeFamily::Auto | JudgeFamily::Qwen2_5Vl | JudgeFamily::Qwen3Vl => {
                let (fingerprint, model) = self.model(spec)?;
                Box::new(VlmWriter::new(spec.path.display().to_string(), fingerprint, model))
            }
            JudgeFamily::Openai => Box::new(Endpoint::new(spec)?),
            JudgeFamily::Ensemble => {
                return Err(Error::Unfit {
                    problem: "an ensemble gives verdicts and does not write".into(),
                    hint: "name one model: a folder, or a server's endpoint and model",
                });
            }
        })
    }

    /// What explains the judge's verdicts in words of `template`: the judge's own model, of an ensemble the first member's.
    ///
    /// # Errors
    /// As [`open_chat`].
    pub fn open_explainer(
        &mut self,
        spec: &JudgeSpec,
        template: ReasonTemplate,
        max_tokens: u32,
    ) -> Result<Explainer, Error> {
        let spec = spec.members.first().unwrap_or(spec);
        // A model in this process computes with all cores already.
        let concurrency = match spec.family.is_in_process() {
            true => 1,
            false => spec.concurrency as usize,
        };
        Ok(Explainer::new(self.open_chat(spec)?, template, max_tokens, concurrency))
    }

    fn one(
        &mut self,
        spec: &JudgeSpec,
        template: &JudgeTemplate,
        templates: &Templates,
    ) -> Result<Box<dyn Judge>, Error> {
        Ok(match spec.family {
            JudgeFamily::Auto | JudgeFamily::Qwen2_5Vl | JudgeFamily::Qwen3Vl => {
                let (fingerprint, model) = self.model(spec)?;
                let name = spec.path.display().to_string();
                Box::new(VlmJudge::new(name, fingerprint, model, template.clone(), spec.margin)?)
            }
            JudgeFamily::Openai => {
                let endpoint = Arc::new(Endpoint::new(spec)?);
                let template = template.clone();
                Box::new(EndpointJudge::new(endpoint, template, spec.margin, spec.concurrency))
            }
            JudgeFamily::Ensemble => {
                let members = spec.members.iter().enumerate().map(|(index, member)| {
                    let judge = self.one(member, templates.member(index), templates)?;
                    Ok((member.weight, judge))
                });
                Box::new(Ensemble::new(members.collect::<Result<_, Error>>()?, spec.margin))
            }
        })
    }

    fn model(&mut self, spec: &JudgeSpec) -> Result<(Digest, Arc<Vlm>), Error> {
        let source = Source::of(spec);
        if let Some(loaded) = self.loaded.iter().find(|loaded| loaded.source == source) {
            return Ok((loaded.fingerprint, Arc::clone(&loaded.model)));
        }
        check_architecture(spec)?;
        let device = load::device(spec.device).map_err(|source| Error::Device {
            device: spec.device.to_string(),
            source,
        })?;
        let model = Arc::new(Vlm::load(&spec.path, &device, load::dtype(spec.dtype))?);
        let fingerprint = load::fingerprint(&spec.path)?;
        tracing::debug!(model = %spec.path.display(), fingerprint = %fingerprint.short(), "judge loaded");
        self.loaded.push(Loaded {
            source,
            fingerprint,
            model: Arc::clone(&model),
        });
        Ok((fingerprint, model))
    }
}

impl Source {
    fn of(spec: &JudgeSpec) -> Self {
        Self {
            path: spec.path.clone(),
            device: spec.device,
            dtype: spec.dtype,
        }
    }
}

/// Compares `model_type` with the family. A folder whose settings cannot be read is reported by whoever loads it.
fn check_architecture(spec: &JudgeSpec) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Named {
        model_type: String,
    }
    let text = std::fs::read_to_string(spec.path.join("config.json")).unwrap_or_default();
    let Ok(Named { model_type }) = serde_json::from_str(&text) else {
        return Ok(());
    };
    let expected = match spec.family {
        JudgeFamily::Qwen2_5Vl if model_type != "qwen2_5_vl" => "qwen2_5_vl",
        JudgeFamily::Qwen3Vl if model_type != "qwen3_vl" => "qwen3_vl",
        _ => return Ok(()),
    };
    Err(Error::Architecture {
        dir: spec.path.clone(),
        found: model_type,
        expected,
    })
}
