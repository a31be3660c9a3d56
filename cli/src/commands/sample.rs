//! `gavel sample`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use gavel_core::ids::{Digest, PromptIndex, Step};
use gavel_core::noise::Use;
use gavel_core::rpo::Sde;
use gavel_core::spec::Device;
use gavel_core::spec::{Problems, PromptsSpec, RunSpec, SamplingSpec};
use gavel_models::Family;
use gavel_models::denoiser::{Encoding, SourceAreas, Task};
use gavel_models::load::Placement;
use gavel_models::lora::LoraAdapter;
use gavel_policy::{Levels, Method, Negative, Policy, Prompt, Request, Sampler, TensorFile, encode_png};
use gavel_rubric::data::{Picture, ReadOptions, Transparency};
use image::{ImageFormat, RgbImage};

use super::dtype::{DtypeArgument, QuantizationArgument};
use crate::diagnostic::{Context as _, Diagnostic, Foreign as _, Result};
use crate::files::write;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct SampleArguments {
    /// Folder of the base model, in the diffusers layout.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Folder of an adapter, in the PEFT layout, or one weight file of another trainer (docs/formats.md).
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) adapter: Option<PathBuf>,
    /// What to paint, or how to edit the source pictures.
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// The picture to edit; again for a model that takes several.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) source: Vec<PathBuf>,
    /// Pixels to which source pictures are resized, for the autoencoder and for the text encoder [default: the pipeline's own].
    #[arg(long, value_name = "LATENTS,TEXT")]
    pub(crate) source_areas: Option<AreasArgument>,
    /// What to steer away from, by classifier-free guidance: twice the work.
    #[arg(long, value_name = "TEXT", conflicts_with = "trajectory")]
    pub(crate) negative: Option<String>,
    /// Strength of --negative, above 1.
    #[arg(long, value_name = "SCALE", default_value_t = 4.0, requires = "negative")]
    pub(crate) true_cfg_scale: f32,
    /// Denoising steps.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) steps: usize,
    /// Seed of the noise.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Width and height in pixels.
    #[arg(long, value_name = "WxH", default_value = "512x512")]
    pub(crate) size: Size,
    /// Take the aspect ratio of the last --source, at about as many pixels as --size has.
    #[arg(long, requires = "source")]
    pub(crate) source_aspect: bool,
    /// Initial latents instead of drawn ones: tensor `latents`, packed (docs/formats.md).
    #[arg(long, value_name = "FILE")]
    pub(crate) latents: Option<PathBuf>,
    /// Deterministic (ode), or with noise along the way (sde).
    #[arg(long, value_enum, default_value = "ode")]
    pub(crate) sampler: SamplerArgument,
    /// The stochastic differential equation of --sampler sde.
    #[arg(long, value_enum, default_value = "dance")]
    pub(crate) sde: SdeArgument,
    /// Noise level of --sampler sde.
    #[arg(long, value_name = "ETA", default_value_t = 0.3)]
    pub(crate) eta: f64,
    /// Steps with noise of --sampler sde [default: all but the last].
    #[arg(long, value_name = "K")]
    pub(crate) noise_steps: Option<usize>,
    /// Which of a prompt's candidates the noise is drawn for.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) candidate: u8,
    /// Time shift of the sigma schedule, or `pipeline` for the schedule of the model's own scheduler.
    #[arg(long, value_name = "SHIFT", default_value = "3")]
    pub(crate) shift: ShiftArgument,
    /// Guidance embedding's input.
    #[arg(long, default_value_t = 3.5)]
    pub(crate) guidance_scale: f64,
    /// Tokens of the encoded words; longer prompts are cut, those of an edit refused.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) max_sequence_length: usize,
    /// Number format of the weights.
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) dtype: DtypeArgument,
    /// Keep the large weights in 8 or 4 bits, as `model.quantization` does.
    #[arg(long, value_enum)]
    pub(crate) quantization: Option<QuantizationArgument>,
    /// Write the whole way as a trajectory file (docs/formats.md).
    #[arg(long, value_name = "OUT.safetensors")]
    pub(crate) trajectory: Option<PathBuf>,
    /// The picture.
    #[arg(long, value_name = "IMG.png")]
    pub(crate) out: PathBuf,
}

/// A picture size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) width: usize,
    pub(crate) height: usize,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides = text
            .split_once(['x', 'X'])
            .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
        match sides {
            Some((width, height)) if width > 0 && height > 0 => Ok(Self { width, height }),
            _ => Err("write it as WxH, for example 512x512".to_owned()),
        }
    }
}

/// Where the noise levels come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ShiftArgument {
    Constant(f64),
    Pipeline,
}

impl FromStr for ShiftArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            _ if text == "pipeline" => Ok(Self::Pipeline),
            Ok(shift) if shift > 0.0 && shift.is_finite() => Ok(Self::Constant(shift)),
            _ => Err("write a positive number, or `pipeline`".to_owned()),
        }
    }
}

impl ShiftArgument {
    fn levels(self) -> Levels {
        match self {
            Self::Constant(_) => Levels::Shift,
            Self::Pipeline => Levels::Pipeline,
        }
    }

    /// What a trajectory file says; 1 for noise levels that no constant shift gives.
    fn constant(self) -> f64 {
        match self {
            Self::Constant(shift) => shift,
            Self::Pipeline => 1.0,
        }
    }
}

/// Two numbers of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AreasArgument(SourceAreas);

impl FromStr for AreasArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let areas = text.split_once(',');
        match areas.and_then(|(latents, text)| Some((latents.parse().ok()?, text.parse().ok()?))) {
            Some((latents, text)) if latents > 0 && text > 0 => Ok(Self(SourceAreas { latents, text })),
            _ => Err("write it as LATENTS,TEXT, for example 1048576,147456".to_owned()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SamplerArgument {
    Ode,
    Sde,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SdeArgument {
    Dance,
    Flow,
}

pub(super) fn sample(arguments: &SampleArguments) -> Result<()> {
    if arguments.prompt.trim().is_empty() {
        return Err(Diagnostic::new("`--prompt` is empty").with_hint("say what to paint"));
    }
    check_ending(&arguments.out)?;
    let sampling = sampling(arguments)?;
    let latents = arguments.latents.as_deref().map(read_latents).transpose()?;
    let family = Family::of_folder(&arguments.model)?;
    let placement = Placement::open(Device::Cpu, arguments.dtype.into()).foreign()?;
    let placement = placement.quantized(arguments.quantization.map(Into::into));
    let mut sampler = Sampler::load(family, &arguments.model, &placement)?;
    let adapter = arguments
        .adapter
        .as_deref()
        .map(|place| LoraAdapter::open(place, sampler.denoiser().layers()))
        .transpose()?;
    let policy = match &adapter {
        Some(adapter) => Policy::Adapted {
            digest: Digest::of(&adapter.to_safetensors()?),
            adapter,
        },
        None => Policy::Base,
    };
    let as_the_pipeline = ReadOptions {
        transparency: Transparency::Dropped,
        ..ReadOptions::local()
    };
    let sources: Vec<Picture> = arguments
        .source
        .iter()
        .map(|file| Picture::open(file, &as_the_pipeline).context("`--source` cannot be used"))
        .collect::<Result<_>>()?;
    let digests: Vec<Digest> = sources.iter().map(|source| source.digest).collect();
    let pictures: Vec<RgbImage> = sources.iter().map(Picture::image).collect();
    let prompts = [Prompt {
        index: PromptIndex(0),
        task: Task {
            words: &arguments.prompt,
            sources: &pictures,
        },
        sources: &digests,
    }];
    let request = Request {
        prompts: &prompts,
        candidates: arguments.candidate.saturating_add(1),
        first_candidate: 0,
        method: match arguments.sampler {
            SamplerArgument::Ode => Method::Ode,
            SamplerArgument::Sde => Method::Sde,
        },
        seed: arguments.seed,
        step: Step(0),
        initial: Use::Initial,
        initial_latents: latents.as_deref(),
        negative: arguments.negative.as_deref().map(|prompt| Negative {
            prompt,
            scale: arguments.true_cfg_scale,
        }),
        sampling: &sampling,
        levels: arguments.shift.levels(),
        encoding: Encoding {
            max_sequence_length: arguments.max_sequence_length,
            source_areas: arguments.source_areas.map(|areas| areas.0),
        },
    };
    let sample = sampler
        .sample(policy, &request)?
        .pop()
        .context("the sampler gave no picture")?;
    if let Some(file) = &arguments.trajectory {
        write(file, &sample.trajectory.to_safetensors())?;
    }
    write(
        &arguments.out,
        &encode_png(&sample.image)
            .foreign()
            .context("cannot encode the picture")?,
    )?;
    output::tell(arguments.out.display());
    Ok(())
}

fn sampling(arguments: &SampleArguments) -> Result<SamplingSpec> {
    let noise_steps = arguments
        .noise_steps
        .unwrap_or(arguments.steps.saturating_sub(1).max(1));
    if !(arguments.true_cfg_scale > 1.0 && arguments.true_cfg_scale.is_finite()) {
        return Err(Diagnostic::new("`--true-cfg-scale` must be above 1")
            .with_hint("leave --negative out for no such guidance"));
    }
    if arguments.shift == ShiftArgument::Pipeline && arguments.trajectory.is_some() {
        return Err(
            Diagnostic::new("a trajectory file says its constant shift, which `--shift pipeline` has not")
                .with_hint("give --shift a number, or leave --trajectory out"),
        );
    }
    let sampling = SamplingSpec {
        steps: arguments.steps,
        shift: arguments.shift.constant(),
        sde: match arguments.sde {
            SdeArgument::Dance => Sde::Dance,
            SdeArgument::Flow => Sde::Flow,
        },
        eta: arguments.eta,
        noise_steps,
        guidance_scale: arguments.guidance_scale,
        width: arguments.size.width,
        height: arguments.size.height,
        source_aspect: arguments.source_aspect,
        candidates: 2,
        shared_noise: true,
        batch: 1,
        max_policy_lag: 0,
    };
    let prompts = PromptsSpec {
        max_sequence_length: arguments.max_sequence_length,
        ..PromptsSpec::default()
    };
    check(&sampling, prompts).context("a picture cannot be painted so")?;
    Ok(sampling)
}

/// Holds the arguments to what a configuration is held to, whose keys the problems name.
fn check(sampling: &SamplingSpec, prompts: PromptsSpec) -> Result<(), Problems> {
    let spec = RunSpec {
        sampling: sampling.clone(),
        prompts,
        ..RunSpec::default()
    };
    let mut problems = spec.check().err().unwrap_or_default();
    let of_arguments = |key: &str| key.starts_with("sampling.") || key == "prompts.max_sequence_length";
    problems.0.retain(|problem| of_arguments(&problem.key));
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Refuses a name that says another format than the one that is written.
fn check_ending(file: &Path) -> Result<()> {
    match ImageFormat::from_path(file) {
        Ok(ImageFormat::Png) | Err(_) => Ok(()),
        Ok(_) => Err(
            Diagnostic::new(format!("`--out {}`: pictures are written as PNG", file.display()))
                .with_hint(format!("name it {}", file.with_extension("png").display())),
        ),
    }
}

/// The tensor `latents`, in storage order; the sampler checks its size. Of a whole trajectory, its first state would be too
/// easy to take by accident, so that file is refused by size.
fn read_latents(file: &Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(file).with_context(|| format!("{}: cannot read the latents", file.display()))?;
    let wrong = || {
        Diagnostic::new(format!("{}: no initial latents", file.display()))
            .with_hint("store them as tensor `latents` (docs/formats.md)")
    };
    let mut tensors = TensorFile::from_bytes(&bytes).with_context(wrong)?;
    Ok(tensors.take("latents").with_context(wrong)?.values)
}
