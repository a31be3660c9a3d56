//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Arg, ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::commands::rubric::RubricCommand;
use crate::connect::{self, Connect};

/// Trains LoRA adapters for image diffusion models with rubric-judged reinforcement learning.
#[derive(Debug, Parser)]
#[command(name = "gavel", version, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a configuration on this machine: coordinator and workers as processes, progress, report.
    Run(RunArguments),
    /// Start a coordinator, which hands out work and keeps the ledger and the blobs.
    Coordinator(CoordinatorArguments),
    /// Start a sampler for a coordinator.
    Sampler(WorkerArguments),
    /// Start a judge for a coordinator (--connect), or judge two pictures once (--model ... A.png B.png).
    Judge(JudgeArguments),
    /// Start a trainer for a coordinator.
    Trainer(WorkerArguments),
    /// Hand a configuration to a coordinator that runs already.
    Submit(SubmitArguments),
    /// Show what the runs of a coordinator do and what they wait for.
    Status(StatusArguments),
    /// Follow a run until it ends.
    Watch(WatchArguments),
    /// Paint a picture from a prompt.
    Sample(SampleArguments),
    /// Perform one RPO update offline from recorded trajectories and rewards.
    Replay(ReplayArguments),
    /// Write the adapter of a run's step as a folder that peft and diffusers load.
    Export(ExportArguments),
    /// Prove from a run's ledger and blobs that each pair was sampled, judged and trained on once, under the right policy.
    Audit(AuditArguments),
    /// Do a recorded step again from a run's ledger and blobs, and compare every byte.
    Verify(VerifyArguments),
    /// Check that a configuration will run: files, models, adapter, judge, memory, folders.
    Doctor(DoctorArguments),
    /// Time the parts of a configuration's step in one process, without a fleet.
    Bench(BenchArguments),
    /// Drive a coordinator of this program with thousands of simulated workers, and say what a lease costs.
    Load(LoadArguments),
    /// Forecast how long steps take on a fleet, from the seconds that each stage takes on one worker.
    Plan(PlanArguments),
    /// Write rubric sets from labelled examples, check, show and compare them.
    Rubric {
        #[command(subcommand)]
        command: RubricCommand,
    },
    /// Look into configuration files.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a configuration file and print every problem.
    Check(ConfigArguments),
}

/// A configuration with its overrides.
#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    /// Configuration file (TOML). Paths in it are relative to the current folder or, where nothing is there, to its own.
    #[arg(value_name = "CONFIG")]
    pub(crate) file: PathBuf,
    /// Override a key, for example --set run.seed=7. Wins over GAVEL__SECTION__KEY in the environment, which wins over the file.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    /// Sampler processes, instead of fleet.samplers.
    #[arg(long, value_name = "N")]
    pub(crate) samplers: Option<u32>,
    /// Judge processes, instead of fleet.judges.
    #[arg(long, value_name = "N")]
    pub(crate) judges: Option<u32>,
    /// Trainer processes, instead of fleet.trainers.
    #[arg(long, value_name = "N")]
    pub(crate) trainers: Option<u32>,
    /// Folder of the run's results [default: runs/<run.name>].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Go on with the run that the folder holds.
    #[arg(long)]
    pub(crate) resume: bool,
    /// CPU threads of each process [default: 2, or fewer where the machine has fewer].
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct CoordinatorArguments {
    /// Folder of the ledger and the blobs, unless --ledger and --blobs name other places.
    #[arg(long, value_name = "DIR", default_value = "gavel-data")]
    pub(crate) data: PathBuf,
    /// Ledger: postgres://USER@HOST/DATABASE, or a SQLite file [default: ledger.sqlite in --data]. With PostgreSQL, a second
    /// coordinator stands by until the first is gone.
    #[arg(long, value_name = "URL")]
    pub(crate) ledger: Option<String>,
    /// Blobs: a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX [default: blobs in --data].
    #[arg(long, value_name = "URL")]
    pub(crate) blobs: Option<String>,
    /// Address for workers and clients; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7440")]
    pub(crate) grpc: SocketAddr,
    /// Address for the dashboard, probes and metrics; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7441")]
    pub(crate) http: SocketAddr,
    /// How often workers send heartbeats.
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub(crate) heartbeat: humantime::Duration,
    /// A worker that was silent for this long is given up.
    #[arg(long, value_name = "DURATION", default_value = "20s")]
    pub(crate) worker_timeout: humantime::Duration,
    #[command(flatten)]
    pub(crate) parent: ParentArguments,
}

/// How a process that `gavel run` started hears that it should end.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ParentArguments {
    /// End in good order when standard input is closed.
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,
}

#[derive(Debug, Args)]
#[command(mut_arg("addresses", connect::without_default))]
pub(crate) struct WorkerArguments {
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) parent: ParentArguments,
}

#[derive(Debug, Args)]
#[command(override_usage = "gavel judge --connect ADDRESS
       gavel judge --model DIR --rubric FILE --prompt TEXT [--json] A.png B.png
       gavel judge --endpoint URL --model-name NAME --rubric FILE --prompt TEXT [--json] A.png B.png
       gavel judge --config FILE --prompt TEXT [--json] A.png B.png")]
#[command(group = ArgGroup::new("judge").args(["model", "endpoint", "config"]))]
#[command(mut_arg("addresses", judges_for))]
pub(crate) struct JudgeArguments {
    #[command(flatten)]
    pub(crate) connect: Option<Connect>,
    /// Judge once: folder of the vision-language model.
    #[arg(long, value_name = "DIR", requires_all = ["rubric", "prompt", "images"])]
    pub(crate) model: Option<PathBuf>,
    /// Judge once: base address of an OpenAI-compatible server, up to and with /v1.
    #[arg(long, value_name = "URL", requires_all = ["model_name", "rubric", "prompt", "images"])]
    pub(crate) endpoint: Option<String>,
    /// Judge once: the name under which the server knows the model.
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub(crate) model_name: Option<String>,
    /// Judge once: environment variable that holds the server's key.
    #[arg(long, value_name = "VARIABLE", requires = "endpoint")]
    pub(crate) api_key_env: Option<String>,
    /// Judge once: by the [judge] section of a run's configuration.
    #[arg(long, value_name = "FILE", requires_all = ["prompt", "images"])]
    pub(crate) config: Option<PathBuf>,
    /// Judge once: rubric set (TOML), or bare text with a criterion on each line [default: the configuration's].
    #[arg(long, value_name = "FILE", requires = "judge")]
    pub(crate) rubric: Option<PathBuf>,
    /// Judge once: what both pictures were painted from, or how a picture was to be edited.
    #[arg(long, value_name = "TEXT", requires = "judge")]
    pub(crate) prompt: Option<String>,
    /// Judge once: judge template [default: the configuration's, judge_template.toml in the model folder, or the one for large instruction-tuned models].
    #[arg(long, value_name = "FILE", requires = "judge")]
    pub(crate) template: Option<PathBuf>,
    /// Judge once: also say what each theme of the rubric decides, and why, asked in the words of this reason template [default: the configuration's].
    #[arg(long, value_name = "FILE", requires = "judge")]
    pub(crate) reasons: Option<PathBuf>,
    /// Judge once: number format of a model folder.
    #[arg(long, default_value = "f32", value_enum)]
    pub(crate) dtype: DtypeArgument,
    /// Judge once: print the verdict with its evidence as JSON.
    #[arg(long, requires = "judge")]
    pub(crate) json: bool,
    /// Judge once: keep the verdict in this file (SQLite), and ask for nothing that it holds.
    #[arg(long, value_name = "FILE", requires = "judge")]
    pub(crate) cache: Option<PathBuf>,
    /// Judge once: the picture that both are edits of.
    #[arg(long, value_name = "IMAGE", requires = "judge")]
    pub(crate) base: Option<PathBuf>,
    /// Judge once: the two pictures.
    #[arg(value_name = "IMAGE", num_args = 2, requires = "judge")]
    pub(crate) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) parent: ParentArguments,
}

/// `--connect` of `gavel judge`, where it decides which of two things the command does. A fleet's environment must not decide
/// it.
fn judges_for(connect: Arg) -> Arg {
    connect
        .default_value(None)
        .env(None)
        .conflicts_with_all([
            "judge", "rubric", "prompt", "template", "reasons", "json", "cache", "base", "images",
        ])
        .required_unless_present("judge")
        .help("Work as a judge for the coordinator at this address, http://HOST:PORT; several, separated by commas, where others stand by")
}

#[derive(Debug, Args)]
pub(crate) struct SubmitArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    /// Let the run go on where it stopped or failed; its labelled pictures are stored anew.
    #[arg(long)]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// A run's name; left out, all runs.
    pub(crate) run: Option<String>,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// Print the whole state as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArguments {
    /// A run's folder or its name in runs/, its name on the coordinator at --connect, or the address of a coordinator with one run.
    #[arg(value_name = "RUN_OR_ADDRESS")]
    pub(crate) what: Option<String>,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// The run's folder, or its name in runs/.
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// The step that committed the adapter; 0 is the initial one [default: the latest].
    #[arg(long, value_name = "N")]
    pub(crate) step: Option<u32>,
    /// Which of the step's adapters, where the run keeps an average.
    #[arg(long, value_enum, default_value = "averaged")]
    pub(crate) weights: ExportWeights,
    /// The new folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// The adapters of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportWeights {
    /// The moving average, which evaluation and the final folder use.
    Averaged,
    /// What the next step starts from.
    Trained,
}

#[derive(Debug, Args)]
pub(crate) struct SampleArguments {
    /// Folder of the base model, in the diffusers layout.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Folder of an adapter, in the PEFT layout.
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// What to paint.
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
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
    /// Time shift of the sigma schedule.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) shift: f64,
    /// Guidance embedding's input.
    #[arg(long, default_value_t = 3.5)]
    pub(crate) guidance_scale: f64,
    /// Tokens that the T5 encoder sees; longer prompts are cut.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) max_sequence_length: usize,
    /// Number format of the weights.
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) dtype: DtypeArgument,
    /// Write the whole way as a trajectory file (docs/formats.md).
    #[arg(long, value_name = "OUT.safetensors")]
    pub(crate) trajectory: Option<PathBuf>,
    /// The picture.
    #[arg(long, value_name = "IMG.png")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// Folder of the base model, in the diffusers layout.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Adapter to update, with the optimizer state beside it if there is one [default: a new one].
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// {"rewards": [..]} in the order of --trajectory, or {"rewards": {"file name": reward}}.
    #[arg(long, value_name = "FILE.json")]
    pub(crate) rewards: PathBuf,
    /// A recorded trajectory; as often as there are candidates.
    #[arg(long = "trajectory", value_name = "FILE", required = true)]
    pub(crate) trajectories: Vec<PathBuf>,
    /// Take [lora], [objective] and [optimizer] from this configuration [default: the published recipe].
    #[arg(long, value_name = "CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Override a key of the configuration.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub(crate) overrides: Vec<String>,
    /// Seed of a new adapter.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Folder of the new adapter and its optimizer state.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Write the mean gradient before clipping.
    #[arg(long, value_name = "OUT.safetensors")]
    pub(crate) gradients: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArguments {
    /// The run's folder, or its name in runs/.
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// The run's folder, or its name in runs/.
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// The step to do again [default: the latest committed one].
    #[arg(long, value_name = "N")]
    pub(crate) step: Option<u32>,
    /// Only this part of the step; may be given several times [default: all].
    #[arg(long, value_enum)]
    pub(crate) part: Vec<VerifyPart>,
    /// Where the base model is now, if not where the run found it.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Where the judge's model is now, if not where the run found it.
    #[arg(long, value_name = "DIR")]
    pub(crate) judge: Option<PathBuf>,
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A part of a step, in the order in which they are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerifyPart {
    /// The initial policy; part of step 1.
    Initialise,
    /// Trajectories and images.
    Sample,
    /// Verdicts.
    Judge,
    /// Gradient sums.
    Gradient,
    /// The new policy.
    Commit,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    /// Folder of the run's results [default: runs/<run.name>].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    /// Timed steps, after a warm-up step.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) steps: u32,
    /// Print the measurements as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    /// Sizes of the simulated fleet, measured one after the other, each with a coordinator of its own.
    #[arg(
        long,
        value_name = "N,N,..",
        value_delimiter = ',',
        default_value = "10,100,1000,10000",
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    pub(crate) workers: Vec<u32>,
    /// Connections that the workers share; never more than there are workers.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Leases that the whole fleet asks for in a second: each worker takes workers/rate seconds for a unit [default: as
    /// many as the coordinator gives].
    #[arg(long, value_name = "LEASES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Prompts of a step; a step has three units for each, and a commit.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) prompts: u32,
    /// How long the fleet is watched while there is no work.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(crate) idle: humantime::Duration,
    /// How long it is watched at work, after it has warmed up.
    #[arg(long, value_name = "DURATION", default_value = "20s")]
    pub(crate) duration: humantime::Duration,
    /// Program whose coordinator is measured, to compare two builds [default: this one].
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    /// Print the measurements as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    /// What a sampler takes for one prompt, all candidates, for example 8s.
    #[arg(long, value_name = "DURATION")]
    pub(crate) sample: humantime::Duration,
    /// What a judge takes for one prompt: one pair, or all pairs of a larger group.
    #[arg(long, value_name = "DURATION")]
    pub(crate) judge: humantime::Duration,
    /// What a trainer takes for the gradient of one prompt's candidates.
    #[arg(long, value_name = "DURATION")]
    pub(crate) gradient: humantime::Duration,
    /// What a trainer takes for an optimizer step.
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub(crate) commit: humantime::Duration,
    /// Samplers, instead of fleet.samplers.
    #[arg(long, value_name = "N")]
    pub(crate) samplers: Option<u32>,
    /// Judges, instead of fleet.judges.
    #[arg(long, value_name = "N")]
    pub(crate) judges: Option<u32>,
    /// Trainers, instead of fleet.trainers.
    #[arg(long, value_name = "N")]
    pub(crate) trainers: Option<u32>,
    /// Steps to go through; a run's steps take alike.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) steps: u32,
    /// Print the forecasts as JSON.
    #[arg(long)]
    pub(crate) json: bool,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DtypeArgument {
    F32,
    Bf16,
    F16,
}

impl From<DtypeArgument> for gavel_core::spec::Dtype {
    fn from(dtype: DtypeArgument) -> Self {
        match dtype {
            DtypeArgument::F32 => Self::F32,
            DtypeArgument::Bf16 => Self::Bf16,
            DtypeArgument::F16 => Self::F16,
        }
    }
}
