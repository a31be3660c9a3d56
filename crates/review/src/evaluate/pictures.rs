//! The pictures of subjects: those that are there, and those that the model paints and a folder keeps.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use gavel_core::ids::{Digest, PromptIndex};
use gavel_core::spec::RunSpec;
use gavel_models::denoiser::Task;
use gavel_models::load::fingerprint;
use gavel_policy::{Prompt, Request, Sampler, encode_png};
use gavel_rubric::data::tasks::TaskRecord;
use gavel_rubric::data::{Picture, ReadOptions};
use image::RgbImage;
use serde_json::{Value, json};

use super::subject::Origin;
use super::{Error, Subject};

/// Changes when the same key would stand for another picture.
const KEY_VERSION: u32 = 1;

/// The files of each subject's pictures of each prompt, and what has still to be painted.
pub struct Pictures<'a> {
    spec: &'a RunSpec,
    tasks: &'a [TaskRecord],
    subjects: &'a [Subject],
    samples: u8,
    /// By subject, then prompt, then sample.
    files: Vec<Vec<Vec<PathBuf>>>,
    /// In order.
    missing: Vec<MissingPicture>,
}

/// A subject's picture of a prompt, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MissingPicture {
    subject: usize,
    prompt: usize,
    sample: u8,
}

impl<'a> Pictures<'a> {
    /// Finds so many pictures of each prompt, as many as the subjects' folders were opened with. Those that are painted lie in `folder`, each
    /// under a hash of all that it depends on. One of these that does not decode, which a kill or a full disk cut short, counts as missing.
    ///
    /// # Errors
    /// The folder cannot be made, or the model's not be read; or a picture that is not painted here is none.
    pub fn find(
        spec: &'a RunSpec,
        tasks: &'a [TaskRecord],
        subjects: &'a [Subject],
        samples: u8,
        folder: &Path,
    ) -> Result<Self, Error> {
        std::fs::create_dir_all(folder).map_err(|source| unkept(folder, source))?;
        let recipe = match subjects.iter().any(Subject::is_painted) {
            true => recipe(spec)?,
            false => Value::Null,
        };
        let mut pictures = Self {
            spec,
            tasks,
            subjects,
            samples,
            files: Vec::with_capacity(subjects.len()),
            missing: Vec::new(),
        };
        for (number, subject) in subjects.iter().enumerate() {
            if let Origin::Files(files) = &subject.origin {
                for file in files.iter().flatten() {
                    Picture::open(file, &ReadOptions::painted())?;
                }
                pictures.files.push(files.clone());
                continue;
            }
            let mut files = Vec::with_capacity(tasks.len());
            for (prompt, task) in tasks.iter().enumerate() {
                let mut of_prompt = Vec::with_capacity(usize::from(samples));
                for sample in 0..samples {
                    let name = key(&recipe, subject, prompt, task, sample);
                    let file = folder.join(format!("{name}.png"));
                    // Two subjects may be the same policy, and have one picture.
                    let is_known = pictures
                        .files
                        .iter()
                        .any(|of_subject| of_subject[prompt].contains(&file));
                    if !is_known && Picture::open(&file, &ReadOptions::painted()).is_err() {
                        pictures.missing.push(MissingPicture {
                            subject: number,
                            prompt,
                            sample,
                        });
                    }
                    of_prompt.push(file);
                }
                files.push(of_prompt);
            }
            pictures.files.push(files);
        }
        Ok(pictures)
    }

    /// Leaves to others what is missing of other prompts.
    pub fn only(&mut self, prompts: &Range<usize>) {
        self.missing.retain(|one| prompts.contains(&one.prompt));
    }

    /// Pictures that have to be painted.
    pub fn missing(&self) -> usize {
        self.missing.len()
    }

    /// The prompts of which a subject's first picture is not there.
    pub fn missing_of(&self, subject: usize) -> Vec<usize> {
        self.missing_of_sample(subject, 0)
    }

    fn missing_of_sample(&self, subject: usize, sample: u8) -> Vec<usize> {
        let of_sample = self
            .missing
            .iter()
            .filter(|one| (one.subject, one.sample) == (subject, sample));
        of_sample.map(|one| one.prompt).collect()
    }

    /// Keeps a subject's first picture of a prompt, which was painted elsewhere.
    ///
    /// # Errors
    /// It is no picture, or cannot be written.
    pub fn take(&mut self, subject: usize, prompt: usize, encoded: &[u8]) -> Result<(), Error> {
        let image = Picture::decode(encoded, &ReadOptions::painted()).map_err(|fault| Error::Taken(Box::new(fault)))?;
        keep(&self.files[subject][prompt][0], &image)?;
        let taken = MissingPicture {
            subject,
            prompt,
            sample: 0,
        };
        self.missing.retain(|one| *one != taken);
        Ok(())
    }

    /// Paints what is missing, and keeps each batch before the next begins; `progress` hears of each with its number of pictures.
    ///
    /// # Errors
    /// A picture cannot be painted or written; those before it are kept.
    pub fn paint(&mut self, sampler: &mut Sampler, progress: &dyn Fn(usize)) -> Result<(), Error> {
        let batch = self
            .spec
            .evaluation
            .as_ref()
            .map_or(self.spec.sampling.batch, |one| one.batch);
        let samples = 0..self.samples;
        let of_each = self.subjects.iter().enumerate();
        for ((number, subject), sample) in of_each.flat_map(|one| samples.clone().map(move |sample| (one, sample))) {
            let Some(policy) = subject.policy() else { continue };
            for chunk in self.missing_of_sample(number, sample).chunks(batch.max(1) as usize) {
                let sources: Vec<(Vec<RgbImage>, Vec<Digest>)> =
                    chunk.iter().map(|index| sources(&self.tasks[*index])).collect();
                let prompts: Vec<Prompt<'_>> = chunk
                    .iter()
                    .zip(&sources)
                    .map(|(index, (images, digests))| Prompt {
                        index: PromptIndex(*index as u32),
                        task: Task {
                            words: &self.tasks[*index].words,
                            sources: images,
                        },
                        sources: digests,
                    })
                    .collect();
                let request = Request {
                    first_candidate: sample,
                    ..Request::evaluation(self.spec, &prompts)
                };
                for (prompt, painted) in chunk.iter().zip(sampler.sample(policy, &request)?) {
                    keep(&self.files[number][*prompt][usize::from(sample)], &painted.image)?;
                }
                progress(chunk.len());
            }
        }
        self.missing.clear();
        Ok(())
    }

    /// A subject's pictures of a prompt, in the samples' order.
    ///
    /// # Errors
    /// One is not there, or is no picture.
    pub(super) fn open(&self, subject: usize, prompt: usize) -> Result<Vec<Picture>, Error> {
        let files = self.files[subject][prompt].iter();
        files
            .map(|file| Ok(Picture::open(file, &ReadOptions::painted())?))
            .collect()
    }
}

/// A task's source pictures and their hashes.
pub(super) fn sources(task: &TaskRecord) -> (Vec<RgbImage>, Vec<Digest>) {
    let images = task.sources.iter().map(Picture::image).collect();
    (images, task.sources.iter().map(|source| source.digest).collect())
}

/// All that every painted picture depends on.
fn recipe(spec: &RunSpec) -> Result<Value, Error> {
    let model = &spec.model.path;
    let mut parts = vec![fingerprint(model)?];
    let mut folders: Vec<PathBuf> = model
        .read_dir()
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|source| unkept(model, source))?;
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    for folder in folders {
        parts.push(fingerprint(&folder)?);
    }
    let sampling = &spec.sampling;
    let mut recipe = json!({
        "version": KEY_VERSION,
        "family": spec.model.family,
        "model": parts,
        "device": spec.model.device.to_string(),
        "dtype": spec.model.dtype,
        "quantization": spec.model.quantization,
        "seed": spec.run.seed,
        "steps": sampling.steps,
        "shift": sampling.shift,
        "guidance_scale": sampling.guidance_scale,
        "size": [sampling.width, sampling.height],
        "source_aspect": sampling.source_aspect,
        "shared_noise": sampling.shared_noise,
        "max_sequence_length": spec.prompts.max_sequence_length,
        "source_areas": spec.prompts.source_areas,
    });
    // Nothing where they compute beside the rest, as in keys of before there was another choice.
    if let Some(device) = spec.model.text_encoder_device {
        recipe["text_encoder_device"] = device.to_string().into();
    }
    Ok(recipe)
}

fn key(recipe: &Value, subject: &Subject, index: usize, task: &TaskRecord, sample: u8) -> Digest {
    let sources: Vec<Digest> = task.sources.iter().map(|source| source.digest).collect();
    let mut whole = vec![
        recipe.clone(),
        json!(subject.identity()),
        json!(index),
        json!(task.words),
        json!(sources),
    ];
    // Nothing for the first, as in keys of before there were others.
    if sample > 0 {
        whole.push(json!(sample));
    }
    Digest::of(Value::Array(whole).to_string().as_bytes())
}

/// Writes a picture by way of another file: a kill leaves none or the whole.
fn keep(file: &Path, image: &RgbImage) -> Result<(), Error> {
    let png = encode_png(image).map_err(|error| Error::Encode(error.into()))?;
    // A name of its own: another evaluation, of another machine, may paint the same picture into the same folder.
    let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    let part = file.with_extension(format!("{}-{now}.part", std::process::id()));
    std::fs::write(&part, png)
        .and_then(|()| std::fs::rename(&part, file))
        .map_err(|source| unkept(file, source))
}

fn unkept(file: &Path, source: std::io::Error) -> Error {
    Error::Kept {
        file: file.to_owned(),
        source,
    }
}
