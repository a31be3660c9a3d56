//! `gavel bench`: the parts of an RPO step, timed in one process without a fleet.

use clap::Args;
use gavel_core::ids::{PromptIndex, Step};
use gavel_core::spec::RunSpec;
use gavel_judge::Templates;
use gavel_models::load::Placement;
use gavel_models::lora::LoraConfig;
use gavel_models::{Family, denoiser::Task};
use gavel_policy::in_process::{InProcess, InProcessStep};
use gavel_policy::{PolicyState, Prompt, Sampler, Trainer};
use gavel_review::peak_memory_bytes;
use gavel_rubric::{Judge, Rubrics};
use image::RgbImage;
use serde::Serialize;

use crate::assets::{self, Files};
use crate::config::{self, ConfigArguments};
use crate::diagnostic::{Context as _, Foreign as _, Result};
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    /// Timed steps, after a warm-up step.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) steps: u32,
    /// Print the measurements as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Wall-clock seconds of one step's parts.
#[derive(Debug, Clone, Copy, Serialize)]
struct Laps {
    /// Text embeddings, all denoising steps, and decoding.
    sample: f64,
    /// Every pair in both image orders.
    judge: f64,
    /// Gradients of the decided pairs and the optimizer step.
    train: f64,
    /// Pairs that the judge decided.
    decided: usize,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Measured {
    /// One entry for each timed step; the warm-up step is left out.
    steps: Vec<Laps>,
    /// Largest resident memory of the process so far, in bytes.
    peak_memory_bytes: u64,
    /// Threads that numeric work is split over.
    threads: usize,
}

pub(super) fn bench(arguments: &BenchArguments) -> Result<()> {
    let spec = config::load(&arguments.config)?;
    let mut bench = Bench::load(spec)?;
    bench.step(Step(1))?;
    let mut steps = Vec::with_capacity(arguments.steps as usize);
    for step in 0..arguments.steps {
        steps.push(bench.step(Step(step + 2))?);
    }
    let measured = Measured {
        steps,
        peak_memory_bytes: peak_memory_bytes().context("cannot read this process's memory use")?,
        threads: rayon::current_num_threads(),
    };
    if arguments.json {
        output::print_line(serde_json::to_string(&measured)?)?;
    } else {
        output::print(measured.describe())?;
    }
    Ok(())
}

impl Measured {
    fn describe(&self) -> String {
        let mut text = String::from("step     sample     judge     train     whole   decided\n");
        for (number, laps) in self.steps.iter().enumerate() {
            let Laps {
                sample,
                judge,
                train,
                decided,
            } = laps;
            let whole = sample + judge + train;
            text += &format!(
                "{:>4} {sample:>9.3}s {judge:>8.3}s {train:>8.3}s {whole:>8.3}s {decided:>9}\n",
                number + 1
            );
        }
        let mebibytes = self.peak_memory_bytes / (1 << 20);
        text + &format!("peak memory {mebibytes} MiB, {} threads\n", self.threads)
    }
}

/// Every part of a run, in one process.
struct Bench {
    spec: RunSpec,
    files: Files,
    sampler: Sampler,
    judge: Box<dyn Judge>,
    rubrics: Rubrics,
    trainer: Trainer,
    state: PolicyState,
}

impl Bench {
    fn load(spec: RunSpec) -> Result<Self> {
        let files = assets::read(&spec)?;
        let family = Family::from_name(spec.model.family.as_str())?;
        let folder = &spec.model.path;
        let placement = Placement::of_model(&spec.model).foreign()?;
        let rubrics = Rubrics::load(&spec.judge.rubric)?;
        let sampler = Sampler::load(family, folder, &placement)?;
        let trainer = Trainer::beside(&sampler);
        let lora = LoraConfig::from(&spec.lora);
        Ok(Self {
            files,
            sampler,
            judge: gavel_judge::open(&spec.judge, &Templates::load(&spec.judge)?)?,
            rubrics,
            state: trainer.initialise(&lora, spec.run.seed, spec.optimizer.averages())?,
            trainer,
            spec,
        })
    }

    /// One whole step on its own prompts.
    fn step(&mut self, step: Step) -> Result<Laps> {
        let count = self.spec.prompts.per_step as usize;
        let offset = step.0 as usize * count;
        let lines = &self.files.assets.prompts;
        let tasks: Vec<_> = (0..count).map(|index| &lines[(offset + index) % lines.len()]).collect();
        let sources: Vec<Vec<RgbImage>> = tasks
            .iter()
            .map(|task| self.files.sources(task))
            .collect::<Result<_>>()?;
        let prompts: Vec<Prompt<'_>> = (0..)
            .zip(tasks.iter().zip(&sources))
            .map(|(index, (task, pictures))| Prompt {
                index: PromptIndex(index),
                task: Task {
                    words: &task.words,
                    sources: pictures,
                },
                sources: &task.sources,
            })
            .collect();
        let mut local = InProcess {
            spec: &self.spec,
            sampler: &mut self.sampler,
            judge: self.judge.as_ref(),
            rubrics: &self.rubrics,
        };
        let InProcessStep {
            updated,
            decided,
            sampling,
            judging,
            training,
        } = local.step(&self.trainer, &self.state, step, &prompts)?;
        self.state = updated.state;
        Ok(Laps {
            sample: sampling.as_secs_f64(),
            judge: judging.as_secs_f64(),
            train: training.as_secs_f64(),
            decided,
        })
    }
}
