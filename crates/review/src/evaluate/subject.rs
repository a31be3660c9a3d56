//! What is evaluated: something that gives pictures for each prompt.

use std::path::{Path, PathBuf};

use gavel_coordinator::blobs::BlobError;
use gavel_core::ids::{Digest, Step};
use gavel_core::spec::RunSpec;
use gavel_models::Family;
use gavel_models::load::fingerprint;
use gavel_models::lora::{AdaptableLayers, LoraAdapter, LoraConfig};
use gavel_policy::Policy;
use gavel_rubric::data::tasks::TaskRecord;
use serde_json::Value;

use super::Error;
use crate::{RunFolder, RunSource as _};

/// The word for the model without an adapter.
const BASE: &str = "base";
/// Fields by which records name their pictures.
const IDS: [&str; 2] = ["id", "key"];
/// Endings of pictures, in the order in which they are looked for.
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// One of those that are evaluated.
pub struct Subject {
    /// What people call it.
    pub name: String,
    /// What it was said to be.
    pub what: String,
    pub(super) origin: Origin,
}

/// Where its pictures come from.
pub(super) enum Origin {
    /// The model paints them.
    Base,
    /// The model paints them with an adapter.
    Adapted(Box<LoraAdapter>, Digest),
    /// They are there: by prompt, then sample.
    Files(Vec<Vec<PathBuf>>),
}

impl Subject {
    /// Finds what `what` says: `base`; RUN@STEP, where RUN is a run's folder or its name in `runs/` and STEP a number, `latest` or `best`; an
    /// adapter's folder or weight file; or a folder of pictures, so many `samples` for each of `tasks`. A name that is there is a path, whatever it
    /// looks like, and a folder with weights an adapter. Blocks, and must not be called from async code.
    ///
    /// # Errors
    /// It is not there, or does not fit the configuration's model or the prompts.
    pub fn open(name: &str, what: &str, spec: &RunSpec, tasks: &[TaskRecord], samples: u8) -> Result<Self, Error> {
        let path = Path::new(what);
        let origin = if path.is_file() || holds_weights(path) {
            Self::adapter_in(name, path, spec)?
        } else if path.join("spec.json").is_file() && path.join("state").is_dir() {
            return Err(Error::WholeRun {
                name: name.to_owned(),
                what: what.to_owned(),
            });
        } else if path.is_dir() {
            Origin::Files(files(name, path, tasks, samples)?)
        } else if what == BASE {
            Origin::Base
        } else if let Some((run, step)) = what.rsplit_once('@') {
            Self::step(name, Path::new(run), step, spec)?
        } else {
            return Err(Error::Absent {
                name: name.to_owned(),
                what: what.to_owned(),
            });
        };
        Ok(Self {
            name: name.to_owned(),
            what: what.to_owned(),
            origin,
        })
    }

    /// Whether the model paints its pictures.
    pub fn is_painted(&self) -> bool {
        self.policy().is_some()
    }

    /// Whether it is the model without an adapter.
    pub fn is_base(&self) -> bool {
        matches!(self.origin, Origin::Base)
    }

    /// Its adapter; `None` of the base and of pictures.
    pub fn adapter(&self) -> Option<&LoraAdapter> {
        match &self.origin {
            Origin::Adapted(adapter, _) => Some(adapter),
            Origin::Base | Origin::Files(_) => None,
        }
    }

    /// Who paints its pictures; `None` where they are there.
    pub(super) fn policy(&self) -> Option<Policy<'_>> {
        match &self.origin {
            Origin::Base => Some(Policy::Base),
            Origin::Adapted(adapter, digest) => Some(Policy::Adapted {
                digest: *digest,
                adapter,
            }),
            Origin::Files(_) => None,
        }
    }

    /// What tells its policy from another: the adapter's tensors and the scale with which they are added.
    pub(super) fn identity(&self) -> String {
        match &self.origin {
            Origin::Base | Origin::Files(_) => BASE.to_owned(),
            Origin::Adapted(adapter, digest) => format!("{digest} {}", adapter.config().scale()),
        }
    }

    fn adapter_in(name: &str, path: &Path, spec: &RunSpec) -> Result<Origin, Error> {
        let family = Family::from_name(spec.model.family.as_str())?;
        let inspection = family.inspect(&spec.model.path)?;
        adapted(name, LoraAdapter::open(path, inspection.layers()))
    }

    fn step(name: &str, run: &Path, step: &str, spec: &RunSpec) -> Result<Origin, Error> {
        let unreadable = |source: crate::Error| Error::Run {
            name: name.to_owned(),
            source: Box::new(source),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| unreadable(crate::Error::Runtime(source)))?;
        let folder = RunFolder::open(run).map_err(unreadable)?;
        let run = runtime.block_on(folder.run()).map_err(unreadable)?;
        let step = match step {
            "latest" => run.committed(),
            "best" => run.best().ok_or_else(|| Error::NoBest { name: name.to_owned() })?,
            number => Step(number.parse().map_err(|_| Error::Step {
                name: name.to_owned(),
                step: number.to_owned(),
            })?),
        };
        let policy = run.results().policies.get(step.0 as usize);
        let policy = policy.ok_or_else(|| Error::NoPolicy {
            name: name.to_owned(),
            step,
            committed: run.committed(),
        })?;
        let bytes = runtime.block_on(folder.blob(&policy.evaluated()));
        let bytes = bytes.map_err(|error| {
            unreadable(match error {
                BlobError::Missing { .. } => crate::Error::NotKept { step, source: error },
                error => crate::Error::Blobs(error),
            })
        })?;
        let family = Family::from_name(spec.model.family.as_str())?;
        let inspection = family.inspect(&spec.model.path)?;
        let denoiser = family.denoiser_dir(&spec.model.path);
        if let Some(expected) = run.denoiser() {
            let found = fingerprint(&denoiser)?;
            if found != expected {
                return Err(Error::OtherBase {
                    name: name.to_owned(),
                    folder: denoiser,
                    found: found.short(),
                    expected: expected.short(),
                });
            }
        }
        let config = LoraConfig::from(&run.spec().lora);
        let layers: &AdaptableLayers = inspection.layers();
        adapted(name, LoraAdapter::from_safetensors(&bytes, &config, layers))
    }
}

fn adapted(name: &str, read: Result<LoraAdapter, gavel_models::lora::LoraError>) -> Result<Origin, Error> {
    let unusable = |source| Error::Adapter {
        name: name.to_owned(),
        source: Box::new(source),
    };
    let adapter = read.map_err(unusable)?;
    let digest = Digest::of(&adapter.to_safetensors().map_err(unusable)?);
    Ok(Origin::Adapted(Box::new(adapter), digest))
}

/// Whether a folder has a file of weights directly in it.
fn holds_weights(folder: &Path) -> bool {
    let Ok(mut entries) = folder.read_dir() else {
        return false;
    };
    entries.any(|entry| entry.is_ok_and(|entry| entry.path().extension().is_some_and(|ending| ending == "safetensors")))
}

/// The files of each task's pictures.
fn files(name: &str, folder: &Path, tasks: &[TaskRecord], samples: u8) -> Result<Vec<Vec<PathBuf>>, Error> {
    let mut found = Vec::with_capacity(tasks.len());
    let mut missing: Vec<(usize, u8)> = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        let of_task: Vec<Option<PathBuf>> = match samples {
            1 => vec![file(folder, index, task).or_else(|| sample_file(folder, index, task, 0))],
            _ => (0..samples)
                .map(|sample| sample_file(folder, index, task, sample))
                .collect(),
        };
        let absent = (0..).zip(&of_task).find(|(_, file)| file.is_none());
        missing.extend(absent.map(|(sample, _)| (index, sample)));
        found.push(of_task.into_iter().flatten().collect());
    }
    match missing.first() {
        None => Ok(found),
        Some((first, sample)) => {
            let prompt = id(&tasks[*first]).unwrap_or_else(|| first.to_string());
            Err(Error::NoPicture {
                name: name.to_owned(),
                folder: folder.to_owned(),
                first: match samples {
                    1 => format!("prompt {prompt}"),
                    _ => format!("sample {sample} of prompt {prompt}"),
                },
                count: missing.len(),
                prompts: tasks.len(),
                samples,
            })
        }
    }
}

/// What a task's pictures may be called: the record's id, or the prompt's number with up to five digits.
fn stems(index: usize, task: &TaskRecord) -> impl Iterator<Item = String> {
    id(task).into_iter().chain(numbered(index))
}

fn numbered(number: usize) -> impl Iterator<Item = String> + Clone {
    (1..=5).map(move |digits| format!("{number:0digits$}"))
}

/// The picture of a task of which there is one.
fn file(folder: &Path, index: usize, task: &TaskRecord) -> Option<PathBuf> {
    let mut files = stems(index, task).flat_map(|stem| with_ending(folder, &stem));
    files.find(|file| file.is_file())
}

/// One of several pictures of a task: `7/0000.png`, `00007/samples/0000.png` as GenEval has them, `7-0.png` or `7_0.png`.
fn sample_file(folder: &Path, index: usize, task: &TaskRecord, sample: u8) -> Option<PathBuf> {
    let numbers = numbered(sample.into());
    let mut files = stems(index, task).flat_map(|stem| {
        let of_stem = numbers
            .clone()
            .flat_map(move |number| ["/", "/samples/", "-", "_"].map(|between| format!("{stem}{between}{number}")));
        of_stem.flat_map(move |name| with_ending(folder, &name))
    });
    files.find(|file| file.is_file())
}

fn with_ending(folder: &Path, stem: &str) -> [PathBuf; ENDINGS.len()] {
    ENDINGS.map(|ending| folder.join(format!("{stem}.{ending}")))
}

/// What the record calls its picture, without its ending and whatever could lead out of the folder.
fn id(task: &TaskRecord) -> Option<String> {
    let id = IDS.iter().find_map(|name| task.fields.get(*name))?;
    let id = match id {
        Value::String(id) => Path::new(id).file_stem()?.to_str()?.to_owned(),
        Value::Number(id) => id.to_string(),
        _ => return None,
    };
    (!id.is_empty()).then_some(id)
}

#[cfg(test)]
mod tests {
    use gavel_rubric::data::{ReadOptions, tasks};

    use super::*;

    #[test]
    fn pictures_are_found_by_id_by_number_and_in_genevals_folders_and_never_outside() {
        let folder = tempfile::tempdir().unwrap();
        let prompts = folder.path().join("p.jsonl");
        let lines = [
            r#"{"prompt": "a", "id": "cat.jpg"}"#,
            r#"{"prompt": "b"}"#,
            r#"{"prompt": "c", "tag": "counting"}"#,
            r#"{"prompt": "d", "key": 77}"#,
            r#"{"prompt": "e", "id": "../p.jsonl"}"#,
        ];
        std::fs::write(&prompts, lines.join("\n")).unwrap();
        let tasks = tasks::read(&prompts, false, &ReadOptions::local()).unwrap();
        let pictures = folder.path().join("pictures");
        std::fs::create_dir_all(pictures.join("00002/samples")).unwrap();
        for file in ["cat.webp", "0001.png", "00002/samples/0000.png", "77.jpeg"] {
            std::fs::write(pictures.join(file), []).unwrap();
        }
        let Err(error) = files("b", &pictures, &tasks, 1) else {
            panic!("the last has no picture")
        };
        let told = error.to_string().replace(&pictures.display().to_string(), "P");
        assert_eq!(
            told,
            "subject `b`: P has no picture of prompt p, and of 1 of the 5 prompts in all"
        );
        std::fs::write(pictures.join("4.png"), []).unwrap();
        let found = files("b", &pictures, &tasks, 1).unwrap();
        let found: Vec<&Path> = found
            .iter()
            .flatten()
            .map(|file| file.strip_prefix(&pictures).unwrap())
            .collect();
        let expected = ["cat.webp", "0001.png", "00002/samples/0000.png", "77.jpeg", "4.png"];
        assert_eq!(found, expected.map(Path::new));
    }

    #[test]
    fn several_pictures_of_a_prompt_are_found_in_its_folder_in_genevals_and_by_number_and_none_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let prompts = folder.path().join("p.jsonl");
        let lines = [
            r#"{"prompt": "a", "id": "cat"}"#,
            r#"{"prompt": "b"}"#,
            r#"{"prompt": "c"}"#,
        ];
        std::fs::write(&prompts, lines.join("\n")).unwrap();
        let tasks = tasks::read(&prompts, false, &ReadOptions::local()).unwrap();
        let pictures = folder.path().join("pictures");
        std::fs::create_dir_all(pictures.join("00001/samples")).unwrap();
        std::fs::create_dir_all(pictures.join("cat")).unwrap();
        let names = [
            ["cat/0000.png", "cat/0001.webp"],
            ["00001/samples/0000.png", "00001/samples/0001.png"],
            ["2-0.jpg", "2-1.jpg"],
        ];
        for file in names.concat() {
            std::fs::write(pictures.join(file), []).unwrap();
        }
        let of = |samples| {
            files("b", &pictures, &tasks, samples).map(|found| {
                let found = found.iter().map(|of_task| {
                    let of_task = of_task.iter().map(|file| file.strip_prefix(&pictures).unwrap());
                    of_task
                        .map(|file| file.to_str().unwrap().to_owned())
                        .collect::<Vec<_>>()
                });
                found.collect::<Vec<_>>()
            })
        };
        assert_eq!(of(2).unwrap(), names);
        assert_eq!(of(1).unwrap(), names.map(|[first, _]| [first]));
        std::fs::write(pictures.join("cat/2.png"), []).unwrap();
        let told = of(3)
            .unwrap_err()
            .to_string()
            .replace(&pictures.display().to_string(), "P");
        assert_eq!(
            told,
            "subject `b`: P has no picture of sample 2 of prompt 1, and of 2 of the 3 prompts in all"
        );
    }

    #[test]
    fn what_is_not_there_is_named_with_what_may_be() {
        let spec = RunSpec::default();
        let told = |what: &str| Subject::open("x", what, &spec, &[], 1).err().unwrap().to_string();
        assert_eq!(told("nowhere"), "subject `x`: there is no `nowhere`");
        assert_eq!(told("nowhere@3"), "subject `x`: its adapter cannot be read");
        assert!(Subject::open("x", "base", &spec, &[], 1).unwrap().is_painted());
    }
}
