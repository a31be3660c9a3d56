//! The rubrics that decide in a run, as a file that other runs take.

use std::collections::BTreeMap;

use gavel_core::ids::Digest;
use gavel_core::spec::Combine;
use gavel_core::work::Task;
use gavel_rubric::{PromptSet, RubricFile, RubricSet};

use crate::{Error, RunSource};

/// The general set of a run and those of its prompts, whether its files brought them or it had them written. Each set of a prompt is the whole of
/// what the judge reads, so that it decides alone.
///
/// # Errors
/// The run or the text of a rubric cannot be read, or it holds no criterion.
pub async fn rubrics(source: &dyn RunSource) -> Result<RubricFile, Error> {
    let run = source.run().await?;
    let assets = run.assets();
    let given = assets.prompt_rubrics.iter().map(|own| (&own.task, own.rubric));
    let written = run.written_rubrics();
    let written = written.filter_map(|(place, rubric)| Some((assets.task(place)?, rubric?)));
    let own: BTreeMap<&Task, Digest> = given.chain(written).collect();
    let general = set(assets.rubric.digest, &assets.rubric.text)?;
    let mut file = RubricFile {
        combine: Combine::Specific,
        // Other runs have other prompts.
        shared: true,
        ..RubricFile::of_set(general)
    };
    for (task, rubric) in own {
        let text = source.blob(&rubric).await?;
        let text = std::str::from_utf8(&text).map_err(|_| Error::Rubric { rubric })?;
        file.prompts.push(PromptSet::of(task, set(rubric, text)?));
    }
    Ok(file)
}

fn set(rubric: Digest, text: &str) -> Result<RubricSet, Error> {
    RubricSet::from_text(text).ok_or(Error::Rubric { rubric })
}
