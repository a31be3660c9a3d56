//! `gavel bench`: the parts of an RPO step, timed in one process without a fleet.

use std::time::Instant;

use anyhow::Context as _;
use gavel_core::ids::{PromptIndex, Step};
use gavel_core::noise::Use;
use gavel_core::rpo::{self, learning_rate};
use gavel_core::spec::RunSpec;
use gavel_core::work::{PromptTask, Task};
use gavel_judge::Templates;
use gavel_models::flux::transformer::ActivationMemory;
use gavel_models::load::{device, dtype};
use gavel_models::lora::LoraConfig;
use gavel_rubric::{Judge, JudgedPair, RubricSet};
use gavel_sampler_worker::{Method, Policy, Request, Sample, Sampler};
use gavel_trainer_worker::{GradientSettings, Group, PolicyState, RewardedTrajectory, Trainer, commit, reduce};
use serde::Serialize;

use crate::args::BenchArguments;
use crate::run::peak_memory_bytes;
use crate::{assets, config};

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

pub(super) fn bench(arguments: &BenchArguments) -> anyhow::Result<()> {
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
        println!("{}", serde_json::to_string(&measured)?);
    } else {
        print!("{}", measured.describe());
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
    prompts: Vec<Task>,
    sampler: Sampler,
    judge: Box<dyn Judge>,
    rubric: RubricSet,
    trainer: Trainer,
    state: PolicyState,
}

impl Bench {
    fn load(spec: RunSpec) -> anyhow::Result<Self> {
        let files = assets::read(&spec)?;
        let model_device = device(spec.model.device)?;
        let rubric = RubricSet::load(&spec.judge.rubric)?;
        let trainer = Trainer::load(&spec.model.path, &model_device, dtype(spec.model.dtype))?;
        let lora = LoraConfig::from(&spec.lora);
        Ok(Self {
            prompts: files.assets.prompts,
            sampler: Sampler::load(&spec.model.path, &model_device, dtype(spec.model.dtype))?,
            judge: gavel_judge::open(&spec.judge, &Templates::load(&spec.judge)?)?,
            rubric,
            state: trainer.initialise(&lora, spec.run.seed, spec.optimizer.averages())?,
            trainer,
            spec,
        })
    }

    /// One whole step on its own prompts.
    fn step(&mut self, step: Step) -> anyhow::Result<Laps> {
        let started = Instant::now();
        let samples = self.sample(step)?;
        let sampled = Instant::now();
        let (groups, decided) = self.judge(&samples)?;
        let judged = Instant::now();
        self.train(step, &groups)?;
        Ok(Laps {
            sample: (sampled - started).as_secs_f64(),
            judge: (judged - sampled).as_secs_f64(),
            train: judged.elapsed().as_secs_f64(),
            decided,
        })
    }

    fn sample(&mut self, step: Step) -> anyhow::Result<Vec<Sample>> {
        let count = self.spec.prompts.per_step as usize;
        let offset = step.0 as usize * count;
        let prompts: Vec<PromptTask> = (0..count)
            .map(|index| PromptTask {
                index: PromptIndex(index as u32),
                task: self.prompts[(offset + index) % self.prompts.len()].clone(),
            })
            .collect();
        let adapter = self.state.adapter.clone();
        let digest = self.state.encode()?.policy.adapter;
        let mut samples = Vec::with_capacity(usize::from(self.spec.sampling.candidates) * count);
        for chunk in prompts.chunks(self.spec.sampling.batch as usize) {
            let request = Request {
                prompts: chunk,
                candidates: self.spec.sampling.candidates,
                method: Method::Sde,
                seed: self.spec.run.seed,
                step,
                initial: Use::Initial,
                initial_latents: None,
                negative: None,
                sampling: &self.spec.sampling,
                max_sequence_length: self.spec.prompts.max_sequence_length,
            };
            samples.extend(self.sampler.sample(
                Policy::Adapted {
                    digest,
                    adapter: &adapter,
                },
                &request,
            )?);
        }
        Ok(samples)
    }

    /// The decided pairs with their rewards, and how many there are.
    fn judge(&self, samples: &[Sample]) -> anyhow::Result<(Vec<Group>, usize)> {
        let candidates = usize::from(self.spec.sampling.candidates);
        let pairs: Vec<JudgedPair<'_>> = samples
            .chunks_exact(candidates)
            .flat_map(|group| {
                rpo::matches(candidates).map(|(first, second)| JudgedPair {
                    prompt_index: group[0].prompt,
                    prompt: &group[0].trajectory.metadata.prompt,
                    source: None,
                    first: &group[first].image,
                    second: &group[second].image,
                })
            })
            .collect();
        let mut verdicts = Vec::with_capacity(pairs.len());
        for chunk in pairs.chunks(self.spec.judge.batch as usize) {
            verdicts.extend(self.judge.judge(&self.rubric, chunk)?);
        }
        let objective = &self.spec.objective;
        let mut groups = Vec::new();
        let matches = verdicts.chunks_exact(rpo::match_count(candidates));
        for (verdicts, group) in matches.zip(samples.chunks_exact(candidates)) {
            let Some(ranks) = rpo::ranks(candidates, verdicts) else {
                continue;
            };
            let rewards = rpo::rewards(&ranks, objective.reward_preferred, objective.reward_dispreferred);
            let candidates = group.iter().zip(rewards).map(|(sample, reward)| RewardedTrajectory {
                trajectory: sample.trajectory.clone(),
                reward,
            });
            groups.push(Group {
                prompt: group[0].prompt,
                candidates: candidates.collect(),
            });
        }
        let decided = groups.len();
        Ok((groups, decided))
    }

    fn train(&mut self, step: Step, groups: &[Group]) -> anyhow::Result<()> {
        let settings = GradientSettings {
            objective: &self.spec.objective,
            timesteps: &self.spec.trained_steps(),
            memory: if self.spec.trainer.checkpoint_activations {
                ActivationMemory::Checkpoint
            } else {
                ActivationMemory::KeepAll
            },
            ratio_deviation: self.spec.limits.ratio_deviation,
        };
        let (mut sums, mut terms) = (Vec::new(), 0);
        for shard in groups.chunks(self.spec.trainer.shard as usize) {
            let shard = self.trainer.gradient(&self.state.adapter, shard, &settings)?;
            terms += shard.statistics.terms;
            sums.extend(shard.gradient.map(|gradient| gradient.as_slice().to_vec()));
        }
        if terms > 0 {
            let mean = reduce(self.state.adapter.parameter_count(), &sums, terms);
            let rate = learning_rate(&self.spec.optimizer, step, self.spec.run.steps);
            self.state = commit(&self.state, &mean, &self.spec.optimizer, rate)?.state;
        }
        Ok(())
    }
}
