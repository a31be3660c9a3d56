//! The arguments of `gavel rubric`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::args::DtypeArgument;

#[derive(Debug, Subcommand)]
pub(crate) enum RubricCommand {
    /// Write a rubric set from labelled examples. A generation that was killed goes on where it was.
    Generate(Box<GenerateArguments>),
    /// Measure a judge on labelled pairs, with and without a rubric.
    Check(Box<CheckArguments>),
    /// Show a rubric set: its criteria, its fingerprint, where it comes from.
    Show(ShowArguments),
    /// Compare two rubric sets; the exit status is 1 when a judge reads different words.
    Diff(DiffArguments),
}

/// The model that writes and judges.
#[derive(Debug, Args)]
pub(crate) struct BackendArguments {
    /// Folder of a vision-language model that this process loads.
    #[arg(long, value_name = "DIR", required_unless_present = "endpoint")]
    pub(super) model: Option<PathBuf>,
    /// Number format of that model.
    #[arg(long, default_value = "f32", value_enum)]
    pub(super) dtype: DtypeArgument,
    /// Base address of an OpenAI-compatible server, for example http://127.0.0.1:8000/v1.
    #[arg(long, value_name = "URL", conflicts_with = "model", requires = "model_name")]
    pub(super) endpoint: Option<String>,
    /// The name under which the server knows the model.
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub(super) model_name: Option<String>,
    /// Environment variable that holds the server's key.
    #[arg(long, value_name = "VARIABLE", requires = "endpoint")]
    pub(super) api_key_env: Option<String>,
    /// Judge template [default: judge_template.toml in the model folder, else the one for large instruction-tuned models].
    #[arg(long, value_name = "FILE")]
    pub(super) template: Option<PathBuf>,
    /// Answers under way at a time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) concurrency: u32,
    /// Times that a question is asked again when the server is not available, with longer and longer pauses.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(super) retries: usize,
}

/// Labelled examples.
#[derive(Debug, Args)]
pub(crate) struct DataArguments {
    /// Labelled examples: a JSON array, JSON Lines or YAML (docs/rubrics.md).
    #[arg(long, visible_alias = "pairs", value_name = "FILE")]
    pub(super) data: PathBuf,
    /// The worst score, where records do not say.
    #[arg(long, value_name = "SCORE", requires = "score_max", allow_negative_numbers = true)]
    pub(super) score_min: Option<i64>,
    /// The best score, where records do not say.
    #[arg(long, value_name = "SCORE", requires = "score_min", allow_negative_numbers = true)]
    pub(super) score_max: Option<i64>,
    /// Most MiB that an encoded picture may have.
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(super) picture_mib_max: u64,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArguments {
    #[command(flatten)]
    pub(super) data: DataArguments,
    #[command(flatten)]
    pub(super) backend: BackendArguments,
    /// Folder of another model, which verifies the criteria [default: the model that writes them].
    #[arg(long, value_name = "DIR")]
    pub(super) judge_model: Option<PathBuf>,
    /// Select by the embeddings of this model of the server (/v1/embeddings) [default: counts of words and letters, without a model].
    #[arg(long, value_name = "NAME")]
    pub(super) embedding_model: Option<String>,
    /// Base address of the server that embeds [default: --endpoint, with its key].
    #[arg(long, value_name = "URL", requires = "embedding_model")]
    pub(super) embedding_endpoint: Option<String>,
    /// Environment variable that holds that server's key.
    #[arg(long, value_name = "VARIABLE", requires = "embedding_endpoint")]
    pub(super) embedding_api_key_env: Option<String>,
    /// The rubric set to write; the answers are kept beside it in OUT.journal.
    #[arg(long, value_name = "FILE")]
    pub(super) out: PathBuf,
    /// What the set is called.
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Language of prompts and criteria.
    #[arg(long, default_value = "en", value_enum)]
    pub(super) language: LanguageArgument,
    /// Folder of prompt templates, instead of a language [default: rubric_prompts in the model folder, if there].
    #[arg(long, value_name = "DIR", conflicts_with = "language")]
    pub(super) prompts: Option<PathBuf>,
    /// Criteria that are written for an example.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(super) criteria: usize,
    /// Most revisions of an example's criteria.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(super) rounds: usize,
    /// Most themes.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(super) themes: usize,
    /// Examples beyond which criteria are selected by what they add.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(super) select_above: usize,
    /// Most criteria that are selected.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(super) criteria_max: usize,
    /// Greatest difference between scores that counts as recovered.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) score_tolerance: u32,
    /// Temperature of the writing; 0 takes the likeliest token each time.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub(super) temperature: f64,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(super) max_tokens: u32,
    /// Seed of the writing and of the order of many examples.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u32,
    /// Print what was done as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    pub(super) data: DataArguments,
    #[command(flatten)]
    pub(super) backend: BackendArguments,
    /// Rubric set (TOML), or bare text with a criterion on each line.
    #[arg(long, value_name = "FILE")]
    pub(super) rubric: PathBuf,
    /// Pairs that are judged together.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) batch: u32,
    /// Do not judge under each theme alone.
    #[arg(long)]
    pub(super) no_themes: bool,
    /// Write a page with the figures and the pictures.
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Pairs on the page, wrong ones first.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(super) html_pairs: usize,
    /// Keep verdicts in this file, so that a check that was killed goes on [default: the page's name with .journal].
    #[arg(long, value_name = "FILE")]
    pub(super) journal: Option<PathBuf>,
    /// Print the figures as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// Rubric set (TOML), or bare text with a criterion on each line.
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Print it as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// The first rubric set.
    #[arg(value_name = "A")]
    pub(super) before: PathBuf,
    /// The second rubric set.
    #[arg(value_name = "B")]
    pub(super) after: PathBuf,
    /// Print the differences as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// A language of the prompts that come with Gavel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LanguageArgument {
    En,
    Zh,
}
