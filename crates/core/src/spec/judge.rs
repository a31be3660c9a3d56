//! `[judge]`: who gives the verdicts.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::device::{Device, Dtype};
use super::problems::Problems;
use super::reasons::ReasonsSpec;

/// What kind of judge it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgeFamily {
    /// Hosted in the judge worker, of the architecture that the folder's `config.json` names.
    Auto,
    /// Qwen2.5-VL, hosted in the judge worker.
    #[default]
    #[serde(rename = "qwen2_5_vl")]
    Qwen2_5Vl,
    /// Qwen3-VL, hosted in the judge worker.
    #[serde(rename = "qwen3_vl")]
    Qwen3Vl,
    /// A server that speaks OpenAI's chat completions.
    Openai,
    /// Several judges that vote.
    Ensemble,
}

impl JudgeFamily {
    /// Whether the model is in the judge worker's own memory.
    pub fn is_in_process(self) -> bool {
        matches!(self, Self::Auto | Self::Qwen2_5Vl | Self::Qwen3Vl)
    }
}

/// `[judge]`: judge, template and rubric. A member of an ensemble is written with the same keys, as far as they concern it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeSpec {
    /// What kind of judge it is.
    pub family: JudgeFamily,
    /// Folder in the transformers layout (`config.json` at its root); for models in the judge worker.
    pub path: PathBuf,
    /// The prompt template around pair, caption and rubric. A member without one takes the ensemble's.
    pub template: PathBuf,
    /// The rubric set: TOML, or a bare text of criteria.
    pub rubric: PathBuf,
    /// The judge abstains when the mean probability is closer than this to one half.
    pub margin: f64,
    /// Pairs that a judge leases at a time.
    pub batch: u32,
    /// Device.
    pub device: Device,
    /// Number format.
    pub dtype: Dtype,
    /// Base address of an OpenAI-compatible server, for example `http://127.0.0.1:8000/v1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The name under which the server knows the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The environment variable that holds the server's key. The key itself is in no file and no log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// How long one answer of the server may take.
    #[serde(with = "super::duration")]
    pub timeout: Duration,
    /// Requests under way at a time, for each judge worker.
    pub concurrency: u32,
    /// Requests for one answer before the server counts as unavailable.
    pub attempts: u32,
    /// Price of a million tokens read, in a currency of one's choice; with it costs are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_price: Option<f64>,
    /// Price of a million tokens written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_price: Option<f64>,
    /// Whether verdicts are kept and not asked for twice; `None` does so where the judge or a member is a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<bool>,
    /// Which pairs are explained to people; none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasons: Option<ReasonsSpec>,
    /// A member's votes.
    pub weight: f64,
    /// The judges of an ensemble.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<JudgeSpec>,
}

/// A judge and where the configuration says so.
#[derive(Debug, Clone)]
pub struct NamedJudge<'a> {
    /// Its table: `judge` or `judge.members[0]`.
    pub at: String,
    /// Its place among an ensemble's members.
    pub member: Option<usize>,
    /// Its keys.
    pub spec: &'a JudgeSpec,
}

impl Default for JudgeSpec {
    fn default() -> Self {
        Self {
            family: JudgeFamily::Qwen2_5Vl,
            path: PathBuf::new(),
            template: PathBuf::new(),
            rubric: PathBuf::new(),
            margin: 0.0,
            batch: 1,
            device: Device::Cpu,
            dtype: Dtype::Bf16,
            endpoint: None,
            model: None,
            api_key_env: None,
            timeout: Duration::from_secs(60),
            concurrency: 8,
            attempts: 5,
            prompt_price: None,
            completion_price: None,
            cache: None,
            reasons: None,
            weight: 1.0,
            members: Vec::new(),
        }
    }
}

impl JudgeSpec {
    /// This judge and, of an ensemble, its members.
    pub fn with_members(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.members)
    }

    /// The judges among these whose models judge workers load, with their places in the configuration.
    pub fn hosted(&self) -> impl Iterator<Item = NamedJudge<'_>> {
        let members = self.members.iter().enumerate().map(|(index, spec)| NamedJudge {
            at: format!("judge.members[{index}]"),
            member: Some(index),
            spec,
        });
        let whole = NamedJudge {
            at: "judge".into(),
            member: None,
            spec: self,
        };
        std::iter::once(whole)
            .chain(members)
            .filter(|judge| judge.spec.family.is_in_process())
    }

    /// Whether verdicts are kept in the coordinator's store and not asked for twice.
    pub fn caches(&self) -> bool {
        let asks_a_server = self.with_members().any(|judge| judge.family == JudgeFamily::Openai);
        self.cache.unwrap_or(asks_a_server)
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        self.check_back_end("judge", problems);
        problems.require_set(
            &self.template,
            "judge.template",
            "a judge template such as configs/judge/instruct.toml",
        );
        problems.require_set(&self.rubric, "judge.rubric", "a rubric set, or a text file of criteria");
        problems.at_least_one(self.batch, "judge.batch");
        if let Some(reasons) = &self.reasons {
            reasons.check("judge.reasons", problems);
        }
        problems.require(self.weight == 1.0, "judge.weight", || {
            "only a member of an ensemble has a weight".into()
        });
        if self.family == JudgeFamily::Ensemble {
            problems.require(self.members.len() >= 2, "judge.members", || {
                format!("an ensemble needs two members or more, not {}", self.members.len())
            });
        } else {
            problems.require(self.members.is_empty(), "judge.members", || {
                "only judge.family = \"ensemble\" has members".into()
            });
        }
        for (index, member) in self.members.iter().enumerate() {
            member.check_member(&format!("judge.members[{index}]"), problems);
        }
    }

    fn check_member(&self, at: &str, problems: &mut Problems) {
        problems.positive(self.weight, &format!("{at}.weight"));
        problems.require(
            self.family != JudgeFamily::Ensemble && self.members.is_empty(),
            &format!("{at}.family"),
            || "a member is no ensemble itself".into(),
        );
        let of_the_run = [
            ("rubric", self.rubric.as_os_str().is_empty()),
            ("batch", self.batch == Self::default().batch),
            ("cache", self.cache.is_none()),
            ("reasons", self.reasons.is_none()),
        ];
        for (key, is_left_out) in of_the_run {
            problems.require(is_left_out, &format!("{at}.{key}"), || {
                format!("belongs to the ensemble: set judge.{key}")
            });
        }
        self.check_back_end(at, problems);
    }

    /// What each kind of judge needs and what it has no use for.
    fn check_back_end(&self, at: &str, problems: &mut Problems) {
        let key = |name: &str| format!("{at}.{name}");
        problems.require(self.margin >= 0.0 && self.margin < 0.5, &key("margin"), || {
            format!("must lie in 0 to 0.5, 0.5 excluded, not {}", self.margin)
        });
        if self.family.is_in_process() {
            problems.require_set(
                &self.path,
                &key("path"),
                "the folder of the judge model, in the transformers layout",
            );
        } else {
            problems.require(self.path.as_os_str().is_empty(), &key("path"), || {
                "names a folder, but this judge is none of a folder: remove it, or choose another family".into()
            });
        }
        let is_server = self.family == JudgeFamily::Openai;
        let for_servers = [
            ("endpoint", self.endpoint.is_some()),
            ("model", self.model.is_some()),
            ("api_key_env", self.api_key_env.is_some()),
            ("prompt_price", self.prompt_price.is_some()),
            ("completion_price", self.completion_price.is_some()),
        ];
        for (name, is_set) in for_servers {
            problems.require(is_server || !is_set, &key(name), || {
                format!("only {at}.family = \"openai\" has it")
            });
        }
        if !is_server {
            return;
        }
        let endpoint = self.endpoint.as_deref().unwrap_or_default();
        problems.require(
            endpoint.starts_with("http://") || endpoint.starts_with("https://"),
            &key("endpoint"),
            || format!("must be the server's base address, such as http://127.0.0.1:8000/v1, not \"{endpoint}\""),
        );
        problems.require(!endpoint.contains(['@', '?', '#']), &key("endpoint"), || {
            "must hold neither a key nor a query: name the key's environment variable in api_key_env".into()
        });
        problems.require(
            self.model.as_deref().is_some_and(|model| !model.is_empty()),
            &key("model"),
            || "must be set: the name under which the server knows the model".into(),
        );
        problems.require(
            self.api_key_env.as_deref().is_none_or(is_variable),
            &key("api_key_env"),
            || "must be the name of an environment variable, not the key itself".into(),
        );
        problems.require(!self.timeout.is_zero(), &key("timeout"), || "must be above 0".into());
        problems.at_least_one(self.concurrency, &key("concurrency"));
        problems.at_least_one(self.attempts, &key("attempts"));
        for (name, price) in [
            ("prompt_price", self.prompt_price),
            ("completion_price", self.completion_price),
        ] {
            problems.not_negative(price.unwrap_or(0.0), &key(name));
        }
    }
}

/// Names of variables are written in capitals; keys are not.
fn is_variable(name: &str) -> bool {
    let mut letters = name.chars();
    letters
        .next()
        .is_some_and(|first| first.is_ascii_uppercase() || first == '_')
        && letters.all(|letter| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_')
}
