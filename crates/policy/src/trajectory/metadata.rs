//! How a trajectory came about: the texts in its file's header.

use std::collections::BTreeMap;

use gavel_core::{ids::Digest, rpo::Sde};
use gavel_models::{Family, denoiser::Grid};

use crate::{TensorFile, TensorFileError};

const BASE: &str = "base";
const NO_GUIDANCE: &str = "none";
/// Only in the files of edits.
const SOURCES: &str = "sources";
const SEPARATOR: &str = ",";

/// Key of the hash of the conditioning's file, where that is another one.
pub(super) const CONDITIONING: &str = "conditioning";

/// Key of the family's name, which files of the first format do not have.
pub(crate) const FAMILY: &str = "family";

/// How a trajectory came about.
#[derive(Debug, Clone, PartialEq)]
pub struct TrajectoryMetadata {
    /// The family of the model.
    pub family: Family,
    /// Fingerprint of the denoiser's folder ([`gavel_models::load::fingerprint`]).
    pub model: Digest,
    /// The adapter's file, `None` for the base policy.
    pub adapter: Option<Digest>,
    /// The words.
    pub prompt: String,
    /// Hashes of the pictures that are edited, in their order; empty where none is.
    pub sources: Vec<Digest>,
    /// The file that holds the conditioning; `None` where the trajectory's own file does.
    pub conditioning: Option<Digest>,
    /// `run.seed`.
    pub seed: u64,
    /// Optimizer step, part of the noise keys.
    pub step: u32,
    /// Index of the prompt in its step.
    pub prompt_index: u32,
    /// Index of the candidate among its prompt's.
    pub candidate: u8,
    /// Which stochastic sampler.
    pub sde: Sde,
    /// Its noise scale.
    pub eta: f64,
    /// Steps with noise, counted from the first.
    pub noise_steps: usize,
    /// Timestep shift of the sigma schedule.
    pub shift: f64,
    /// The guidance scale that the denoiser read; `None` for one that takes none.
    pub guidance_scale: Option<f64>,
    /// Image width in pixels.
    pub width: usize,
    /// Image height in pixels.
    pub height: usize,
    /// Rows and columns of packed latent tokens.
    pub grid: Grid,
}

impl TrajectoryMetadata {
    pub(super) fn to_map(&self) -> BTreeMap<String, String> {
        let digest_or = |digest: Option<Digest>, absent: &str| digest.map_or(absent.to_owned(), |one| one.to_string());
        let pairs = [
            (FAMILY, self.family.name().to_owned()),
            ("model", self.model.to_string()),
            ("adapter", digest_or(self.adapter, BASE)),
            ("prompt", self.prompt.clone()),
            ("seed", self.seed.to_string()),
            ("step", self.step.to_string()),
            ("prompt_index", self.prompt_index.to_string()),
            ("candidate", self.candidate.to_string()),
            ("sde", sde_name(self.sde).to_owned()),
            ("eta", self.eta.to_string()),
            ("noise_steps", self.noise_steps.to_string()),
            ("shift", self.shift.to_string()),
            (
                "guidance_scale",
                self.guidance_scale
                    .map_or(NO_GUIDANCE.to_owned(), |scale| scale.to_string()),
            ),
            ("width", self.width.to_string()),
            ("height", self.height.to_string()),
            ("height_tokens", self.grid.height.to_string()),
            ("width_tokens", self.grid.width.to_string()),
        ];
        let mut map: BTreeMap<String, String> = pairs.map(|(key, value)| (key.to_owned(), value)).into();
        map.extend(write_sources(&self.sources));
        map.extend(
            self.conditioning
                .map(|file| (CONDITIONING.to_owned(), file.to_string())),
        );
        map
    }

    /// Reads everything but the family and the conditioning, which not all formats name.
    pub(super) fn from_file(file: &TensorFile, family: Family) -> Result<Self, TensorFileError> {
        const COUNT: &str = "a whole number";
        Ok(Self {
            family,
            model: file.parse("model", "a SHA-256")?,
            adapter: parse_unless(file, "adapter", BASE, "a SHA-256 or `base`")?,
            prompt: file.parse("prompt", "a text")?,
            sources: parse_sources(file)?,
            conditioning: None,
            seed: file.parse("seed", COUNT)?,
            step: file.parse("step", COUNT)?,
            prompt_index: file.parse("prompt_index", COUNT)?,
            candidate: file.parse("candidate", COUNT)?,
            sde: parse_sde(file)?,
            eta: finite(file, "eta")?,
            noise_steps: extent(file, "noise_steps")?,
            shift: finite(file, "shift")?,
            guidance_scale: parse_unless(file, "guidance_scale", NO_GUIDANCE, "a number or `none`")?,
            width: extent(file, "width")?,
            height: extent(file, "height")?,
            grid: Grid {
                height: extent(file, "height_tokens")?,
                width: extent(file, "width_tokens")?,
            },
        })
    }
}

/// A number of pixels, tokens or steps. Two of them multiply without overflow.
fn extent(file: &TensorFile, key: &'static str) -> Result<usize, TensorFileError> {
    const MAX: usize = 1 << 24;
    const EXPECTED: &str = "a whole number, at most 16777216";
    let extent: usize = file.parse(key, EXPECTED)?;
    match extent <= MAX {
        true => Ok(extent),
        false => Err(TensorFileError::Metadata {
            key,
            expected: EXPECTED,
            found: file.metadata.get(key).cloned(),
        }),
    }
}

/// A number, which is none where it says NaN or infinity.
fn finite(file: &TensorFile, key: &'static str) -> Result<f64, TensorFileError> {
    const EXPECTED: &str = "a finite number";
    let number: f64 = file.parse(key, EXPECTED)?;
    match number.is_finite() {
        true => Ok(number),
        false => Err(TensorFileError::Metadata {
            key,
            expected: EXPECTED,
            found: file.metadata.get(key).cloned(),
        }),
    }
}

/// The family that a file names.
///
/// # Errors
/// [`TensorFileError::Metadata`] for a family that this version does not know.
pub(crate) fn parse_family(file: &TensorFile) -> Result<Family, TensorFileError> {
    let name: String = file.parse(FAMILY, "the name of a model family")?;
    Family::from_name(&name).map_err(|_| TensorFileError::Metadata {
        key: FAMILY,
        expected: "a model family of this version",
        found: Some(name),
    })
}

/// The entry of the source pictures, where there are any.
pub(crate) fn write_sources(sources: &[Digest]) -> Option<(String, String)> {
    let texts: Vec<String> = sources.iter().map(Digest::to_string).collect();
    (!texts.is_empty()).then(|| (SOURCES.to_owned(), texts.join(SEPARATOR)))
}

/// The source pictures that a file names.
///
/// # Errors
/// [`TensorFileError::Metadata`] for anything but hashes.
pub(crate) fn parse_sources(file: &TensorFile) -> Result<Vec<Digest>, TensorFileError> {
    let Some(text) = file.metadata.get(SOURCES) else {
        return Ok(Vec::new());
    };
    let sources: Result<_, _> = text.split(SEPARATOR).map(str::parse).collect();
    sources.map_err(|_| TensorFileError::Metadata {
        key: SOURCES,
        expected: "SHA-256 sums with commas between them",
        found: Some(text.clone()),
    })
}

/// A value, or `None` where the file says `absent`.
fn parse_unless<T: std::str::FromStr>(
    file: &TensorFile,
    key: &'static str,
    absent: &str,
    expected: &'static str,
) -> Result<Option<T>, TensorFileError> {
    let text: String = file.parse(key, expected)?;
    match text == absent {
        true => Ok(None),
        false => file.parse(key, expected).map(Some),
    }
}

fn sde_name(sde: Sde) -> &'static str {
    match sde {
        Sde::Dance => "dance",
        Sde::Flow => "flow",
    }
}

fn parse_sde(file: &TensorFile) -> Result<Sde, TensorFileError> {
    let found: Option<&String> = file.metadata.get("sde");
    let known = [Sde::Dance, Sde::Flow]
        .into_iter()
        .find(|sde| found.is_some_and(|name| name == sde_name(*sde)));
    known.ok_or_else(|| TensorFileError::Metadata {
        key: "sde",
        expected: "`dance` or `flow`",
        found: found.cloned(),
    })
}
