//! `gavel init`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::config::schema;
use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::{output, shell};

#[derive(Debug, Args)]
pub(crate) struct InitArguments {
    /// The new folder.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Edits of pictures by Qwen-Image-Edit, instead of pictures from text by FLUX.1-dev.
    #[arg(long)]
    pub(crate) edit: bool,
    /// Folder of the base model, in the diffusers layout [default: where the configuration says that it should be put].
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Folder of the judge's model, in the transformers layout [default: likewise].
    #[arg(long, value_name = "DIR")]
    pub(crate) judge: Option<PathBuf>,
}

/// A published recipe as it stands in configs/, and what its paths become in a folder of one's own.
struct Recipe {
    config: &'static str,
    model: &'static str,
    judge: &'static str,
    /// What a path is there, what it is here, and what the file holds.
    files: &'static [(&'static str, &'static str, &'static str)],
    /// Pictures that the tasks edit, by their names.
    sources: &'static [(&'static str, &'static [u8])],
}

/// By this file editors complete and check the configuration.
const SCHEMA: &str = "gavel.schema.json";

/// Where the edits of configs/ find their sources, and where those of a new folder do.
const SOURCES: [&str; 2] = ["../../examples/qwen-image-edit/sources/", "sources/"];

macro_rules! sources {
    ($($name:literal),*) => {
        &[$((
            concat!($name, ".jpg"),
            include_bytes!(concat!("../../../examples/qwen-image-edit/sources/", $name, ".jpg")),
        )),*]
    };
}

const JUDGE: &str = "\"../models/Qwen3-VL-8B-Instruct\"";

const PICTURES: Recipe = Recipe {
    config: include_str!("../../../configs/flux-dev.toml"),
    model: "\"../models/FLUX.1-dev\"",
    judge: JUDGE,
    files: &[
        (
            "flux-dev/prompts.txt",
            "prompts.txt",
            include_str!("../../../configs/flux-dev/prompts.txt"),
        ),
        (
            "flux-dev/held-out.txt",
            "held-out.txt",
            include_str!("../../../configs/flux-dev/held-out.txt"),
        ),
        (
            "flux-dev/rubric.toml",
            "rubric.toml",
            include_str!("../../../configs/flux-dev/rubric.toml"),
        ),
        (
            "judge/instruct.toml",
            "judge.toml",
            include_str!("../../../configs/judge/instruct.toml"),
        ),
    ],
    sources: &[],
};

const EDITS: Recipe = Recipe {
    config: include_str!("../../../configs/qwen-image-edit.toml"),
    model: "\"../models/Qwen-Image-Edit\"",
    judge: JUDGE,
    files: &[
        (
            "qwen-image-edit/edits.jsonl",
            "edits.jsonl",
            include_str!("../../../configs/qwen-image-edit/edits.jsonl"),
        ),
        (
            "qwen-image-edit/held-out.jsonl",
            "held-out.jsonl",
            include_str!("../../../configs/qwen-image-edit/held-out.jsonl"),
        ),
        (
            "qwen-image-edit/rubric.toml",
            "rubric.toml",
            include_str!("../../../configs/qwen-image-edit/rubric.toml"),
        ),
        (
            "judge/instruct-edit.toml",
            "judge.toml",
            include_str!("../../../configs/judge/instruct-edit.toml"),
        ),
    ],
    sources: sources![
        "lake-1",
        "lake-2",
        "lake-3",
        "lake-4",
        "lake-held-out",
        "room-1",
        "room-2",
        "room-3",
        "room-4",
        "room-held-out",
        "street-1",
        "street-2",
        "street-3",
        "street-4",
        "street-held-out",
        "table-1",
        "table-2",
        "table-3",
        "table-4",
        "table-held-out"
    ],
};

/// Writes a folder with all that a run needs but the models: the published recipe, prompts, a rubric and the judge's words, to be changed.
pub(super) fn init(arguments: &InitArguments) -> Result<()> {
    let dir = &arguments.dir;
    if dir.exists() {
        return Err(Diagnostic::new(format!("{} is there already", dir.display())).with_hint("name a new folder"));
    }
    let recipe = if arguments.edit { &EDITS } else { &PICTURES };
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or("run");
    std::fs::create_dir_all(dir).with_context(|| format!("{}: cannot make the folder", dir.display()))?;
    let write = |file: &str, contents: &[u8]| {
        let path = dir.join(file);
        std::fs::write(&path, contents).with_context(|| format!("{}: cannot write the file", path.display()))
    };
    let config = config(recipe, name, arguments.model.as_deref(), arguments.judge.as_deref());
    write("gavel.toml", config.as_bytes())?;
    write(SCHEMA, serde_json::to_string_pretty(&schema())?.as_bytes())?;
    let [there, here] = SOURCES;
    for (_, file, text) in recipe.files {
        write(file, text.replace(there, here).as_bytes())?;
    }
    if !recipe.sources.is_empty() {
        let sources = dir.join(here);
        std::fs::create_dir(&sources).with_context(|| format!("{}: cannot make the folder", sources.display()))?;
    }
    for (name, picture) in recipe.sources {
        write(&format!("{here}{name}"), picture)?;
    }
    output::tell(format_args!(
        "{}: gavel.toml, and the files that it names; change them as you like",
        dir.display()
    ));
    let file = dir.join("gavel.toml").display().to_string();
    output::tell(format_args!(
        "`{}` says what is missing, `{}` trains",
        shell::command(["gavel", "doctor", &file]),
        shell::command(["gavel", "run", &file])
    ));
    Ok(())
}

/// The recipe with the paths of the new folder.
fn config(recipe: &Recipe, name: &str, model: Option<&Path>, judge: Option<&Path>) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let mut config = recipe.config.to_owned();
    for (there, here, _) in recipe.files {
        config = config.replacen(&quoted(there), &quoted(here), 1);
    }
    for (there, given) in [(recipe.model, model), (recipe.judge, judge)] {
        if let Some(path) = given {
            // Paths of a configuration are relative to its folder, those of an argument to the current one.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            config = config.replacen(there, &quoted(&path.display().to_string()), 1);
        }
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    let (head, sections) = config.split_once("[run]").unwrap_or(("", &config));
    let notes = head.lines().take(1).map(|line| format!("{line}\n")).collect::<String>();
    let own = sections
        .split_once("name = ")
        .map_or(sections.to_owned(), |(before, after)| {
            let rest = after.split_once('\n').map_or("", |(_, rest)| rest);
            format!("{before}name = {}\n{rest}", quoted(name.trim_start_matches('.')))
        });
    format!("#:schema {SCHEMA}\n{notes}\n[run]{own}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_file;

    #[test]
    fn a_new_folder_holds_a_configuration_that_passes_its_checks() {
        for edit in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let dir = folder.path().join("my run");
            let arguments = InitArguments {
                dir: dir.clone(),
                edit,
                model: Some("/models/base".into()),
                judge: None,
            };
            init(&arguments).unwrap();
            let spec = load_file(&dir.join("gavel.toml"), &[]).unwrap();
            assert_eq!(spec.run.name, "my-run");
            assert_eq!(spec.model.path, Path::new("/models/base"));
            assert!(spec.evaluation.is_some());
            let text = std::fs::read_to_string(dir.join("gavel.toml")).unwrap();
            assert!(
                text.starts_with("#:schema gavel.schema.json\n") && dir.join(SCHEMA).is_file(),
                "{text}"
            );
            for (key, path) in spec.paths() {
                let is_model = ["model.path", "judge.path"].contains(&key.as_str());
                assert!(is_model || path.is_file(), "{key}: {}", path.display());
            }
            for tasks in ["edits.jsonl", "held-out.jsonl"].iter().filter(|_| edit) {
                let tasks = std::fs::read_to_string(dir.join(tasks)).unwrap();
                for task in tasks.lines() {
                    let task: serde_json::Value = serde_json::from_str(task).unwrap();
                    let source = dir.join(task["source_image"].as_str().unwrap());
                    assert!(source.is_file(), "{}", source.display());
                }
            }
            let again = init(&arguments).unwrap_err().render();
            assert!(again.contains("is there already"), "{again}");
        }
    }
}
