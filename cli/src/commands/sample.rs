//! `gavel sample`.

use std::path::Path;

use anyhow::Context as _;
use candle_core::Device;
use gavel_core::ids::{Digest, PromptIndex, Step};
use gavel_core::noise::Use;
use gavel_core::rpo::Sde;
use gavel_core::spec::SamplingSpec;
use gavel_core::work::PromptTask;
use gavel_models::load::dtype;
use gavel_models::lora::LoraAdapter;
use gavel_models::tensor_file::TensorFile;
use gavel_sampler_worker::{Method, Negative, Policy, Request, Sampler, encode_png};

use crate::args::{SampleArguments, SamplerArgument, SdeArgument};
use crate::fault::Fault;

pub(super) fn sample(arguments: &SampleArguments) -> anyhow::Result<()> {
    if arguments.prompt.trim().is_empty() {
        return Err(Fault::new("`--prompt` is empty").with_hint("say what to paint").into());
    }
    let sampling = sampling(arguments)?;
    let latents = arguments.latents.as_deref().map(read_latents).transpose()?;
    let mut sampler = Sampler::load(&arguments.model, &Device::Cpu, dtype(arguments.dtype.into()))?;
    let adapter = arguments
        .adapter
        .as_deref()
        .map(|dir| LoraAdapter::load(dir, &sampler.pipeline().transformer))
        .transpose()?;
    let policy = match &adapter {
        Some(adapter) => Policy::Adapted {
            digest: Digest::of(&adapter.to_safetensors()?),
            adapter,
        },
        None => Policy::Base,
    };
    let prompts = [PromptTask {
        index: PromptIndex(0),
        task: arguments.prompt.clone().into(),
    }];
    let request = Request {
        prompts: &prompts,
        candidates: arguments.candidate.saturating_add(1),
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
        max_sequence_length: arguments.max_sequence_length,
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
        &encode_png(&sample.image).context("cannot encode the picture")?,
    )?;
    println!("{}", arguments.out.display());
    Ok(())
}

fn sampling(arguments: &SampleArguments) -> Result<SamplingSpec, Fault> {
    if arguments.steps == 0 {
        return Err(Fault::new("`--steps` must be at least 1"));
    }
    let noise_steps = arguments
        .noise_steps
        .unwrap_or(arguments.steps.saturating_sub(1).max(1));
    if noise_steps > arguments.steps {
        return Err(Fault::new(format!(
            "`--noise-steps` {noise_steps} is more than `--steps` {}",
            arguments.steps
        )));
    }
    if !(arguments.true_cfg_scale > 1.0 && arguments.true_cfg_scale.is_finite()) {
        return Err(
            Fault::new("`--true-cfg-scale` must be above 1").with_hint("leave --negative out for no such guidance")
        );
    }
    if !(arguments.eta > 0.0 && arguments.eta.is_finite() && arguments.shift > 0.0 && arguments.shift.is_finite()) {
        return Err(Fault::new("`--eta` and `--shift` must be positive numbers"));
    }
    Ok(SamplingSpec {
        steps: arguments.steps,
        shift: arguments.shift,
        sde: match arguments.sde {
            SdeArgument::Dance => Sde::Dance,
            SdeArgument::Flow => Sde::Flow,
        },
        eta: arguments.eta,
        noise_steps,
        guidance_scale: arguments.guidance_scale,
        width: arguments.size.width,
        height: arguments.size.height,
        candidates: 2,
        shared_noise: true,
        batch: 1,
        max_policy_lag: 0,
    })
}

/// The tensor `latents`, in storage order; the sampler checks its size. Of a whole trajectory, its first state would be too
/// easy to take by accident, so that file is refused by size.
fn read_latents(file: &Path) -> anyhow::Result<Vec<f32>> {
    let bytes = std::fs::read(file).with_context(|| format!("{}: cannot read the latents", file.display()))?;
    let wrong = || {
        Fault::new(format!("{}: no initial latents", file.display()))
            .with_hint("store them as tensor `latents` (docs/formats.md)")
    };
    let mut tensors = TensorFile::from_bytes(&bytes).with_context(wrong)?;
    Ok(tensors.take("latents").with_context(wrong)?.values)
}

/// Writes a file, creating its folder.
pub(super) fn write(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let fault = || {
        Fault::new(format!("{}: cannot write", file.display())).with_hint("choose a place that this user may write to")
    };
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(fault)?;
    }
    std::fs::write(file, bytes).with_context(fault)
}
