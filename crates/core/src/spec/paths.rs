//! The keys that name files and folders, for those who look for them, and for the fingerprint, which leaves them out.

use std::path::PathBuf;

use toml::{Table, Value};

use super::{EmbeddingSpec, JudgeBackEnd, RunSpec};

/// The keys whose values are paths, for tables that are not read yet; [`of`] lists those of a spec. A member of an ensemble has them
/// under the names of `[judge]`, and so have a held-out judge and a writer with a model of its own.
pub(super) const PATHS: &[&str] = &[
    "model.path",
    "prompts.train",
    "prompts.held_out",
    "lora.init",
    "judge.template",
    "judge.rubric",
    "judge.reasons.template",
    "judge.writer.template",
    "judge.writer.embedding.path",
    "judge.path",
    "evaluation.labelled",
];

/// Calls `visit` with the key and the text of each path in a configuration that is not read yet. Values of a wrong type are
/// left for [`RunSpec::from_value`] to refuse.
pub fn each_path(table: &mut Table, mut visit: impl FnMut(&str, &mut String)) {
    for key in PATHS {
        let mut parts: Vec<&str> = key.split('.').collect();
        let last = parts.pop().unwrap_or_default();
        let mut at = Some(&mut *table);
        for part in parts {
            at = at.and_then(|table| table.get_mut(part)?.as_table_mut());
        }
        if let Some(Value::String(path)) = at.and_then(|table| table.get_mut(last)) {
            visit(key, path);
        }
    }
    let Some(judge) = table.get_mut("judge").and_then(Value::as_table_mut) else {
        return;
    };
    each_of_members(judge, "judge", &mut visit);
    let writer = judge.get_mut("writer").and_then(Value::as_table_mut);
    if let Some(Value::String(path)) = writer.and_then(|writer| writer.get_mut("path")) {
        visit("judge.writer.path", path);
    }
    if let Some(held_out) = judge.get_mut("held_out").and_then(Value::as_table_mut) {
        each_of_judge(held_out, "judge.held_out", &mut visit);
        each_of_members(held_out, "judge.held_out", &mut visit);
    }
}

/// The paths of one judge's table, which stands at `at`.
fn each_of_judge(judge: &mut Table, at: &str, visit: &mut impl FnMut(&str, &mut String)) {
    for key in PATHS.iter().filter_map(|key| key.strip_prefix("judge.")) {
        if let Some(Value::String(path)) = judge.get_mut(key) {
            visit(&format!("{at}.{key}"), path);
        }
    }
}

fn each_of_members(judge: &mut Table, at: &str, visit: &mut impl FnMut(&str, &mut String)) {
    let members = judge.get_mut("members").and_then(Value::as_array_mut);
    for (index, member) in members.into_iter().flatten().enumerate() {
        if let Some(member) = member.as_table_mut() {
            each_of_judge(member, &format!("{at}.members[{index}]"), visit);
        }
    }
}

/// The paths of a spec, each with its key.
pub(super) fn of(spec: &mut RunSpec) -> Vec<(String, &mut PathBuf)> {
    let RunSpec {
        model,
        prompts,
        lora,
        judge,
        evaluation,
        ..
    } = spec;
    let mut paths = vec![
        ("model.path".to_owned(), &mut model.path),
        ("prompts.train".to_owned(), &mut prompts.train),
    ];
    let held_out = prompts.held_out.as_mut();
    paths.extend(held_out.map(|path| ("prompts.held_out".to_owned(), path)));
    paths.extend(lora.init.as_mut().map(|path| ("lora.init".to_owned(), path)));
    paths.push(("judge.template".to_owned(), &mut judge.template));
    paths.push(("judge.rubric".to_owned(), &mut judge.rubric));
    let reasons = judge.reasons.as_mut();
    paths.extend(reasons.map(|reasons| ("judge.reasons.template".to_owned(), &mut reasons.template)));
    if let Some(writer) = judge.writer.as_mut() {
        paths.push(("judge.writer.template".to_owned(), &mut writer.template));
        if let Some(EmbeddingSpec::TextEncoder(encoder)) = &mut writer.embedding {
            paths.push(("judge.writer.embedding.path".to_owned(), &mut encoder.path));
        }
        if let Some(back_end) = &mut writer.back_end {
            of_back_end("judge.writer", back_end, &mut paths);
        }
    }
    of_back_end("judge", &mut judge.back_end, &mut paths);
    if let Some(held_out) = judge.held_out.as_deref_mut() {
        paths.push(("judge.held_out.template".to_owned(), &mut held_out.template));
        paths.push(("judge.held_out.rubric".to_owned(), &mut held_out.rubric));
        of_back_end("judge.held_out", &mut held_out.back_end, &mut paths);
    }
    let labelled = evaluation.as_mut().and_then(|evaluation| evaluation.labelled.as_mut());
    paths.extend(labelled.map(|path| ("evaluation.labelled".to_owned(), path)));
    paths
}

/// The paths of what answers for a judge whose table stands at `at`.
fn of_back_end<'a>(at: &str, back_end: &'a mut JudgeBackEnd, paths: &mut Vec<(String, &'a mut PathBuf)>) {
    match back_end {
        JudgeBackEnd::Ensemble(ensemble) => {
            for (index, member) in ensemble.members.iter_mut().enumerate() {
                let at = format!("{at}.members[{index}]");
                paths.push((format!("{at}.template"), &mut member.template));
                let model = model_folder(&mut member.back_end);
                paths.extend(model.map(|path| (format!("{at}.path"), path)));
            }
        }
        alone => {
            let model = model_folder(alone);
            paths.extend(model.map(|path| (format!("{at}.path"), path)));
        }
    }
}

/// The folder of a judge's own model.
fn model_folder(back_end: &mut JudgeBackEnd) -> Option<&mut PathBuf> {
    match back_end {
        JudgeBackEnd::InProcess(model) => Some(&mut model.path),
        JudgeBackEnd::Clip(model) => Some(&mut model.path),
        JudgeBackEnd::Server(_) | JudgeBackEnd::Scorer(_) | JudgeBackEnd::Evaluator(_) | JudgeBackEnd::Ensemble(_) => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::{documented, full};

    #[test]
    fn both_lists_hold_the_keys_that_the_documentation_calls_paths() {
        let text = documented();
        let paths = text.iter().filter(|row| row.kind == "path");
        let mut expected: Vec<String> = paths.map(|row| format!("{}.{}", row.section, row.key)).collect();
        expected.sort();
        let mut listed: Vec<String> = PATHS.iter().map(|key| (*key).to_owned()).collect();
        listed.sort();
        assert_eq!(listed, expected);

        let mut table = Table::try_from(full()).unwrap();
        let mut in_table = Vec::new();
        each_path(&mut table, |key, path| {
            in_table.push((key.to_owned(), PathBuf::from(path.as_str())))
        });
        let mut spec = full();
        let mut in_spec: Vec<_> = of(&mut spec)
            .into_iter()
            .map(|(key, path)| (key, path.clone()))
            .collect();
        in_table.sort();
        in_spec.sort();
        assert_eq!(in_table, in_spec);
        assert!(in_spec.iter().any(|(key, _)| key == "judge.members[1].template"));
    }

    #[test]
    fn keys_are_told_with_the_files_that_they_name() {
        let keys = [
            "judge.rubric",
            "judge.members.template",
            "judge.reasons.template",
            "run.seed",
        ];
        let expected = [
            "judge.rubric (rubric.toml)",
            "judge.members.template (first.toml, second.toml)",
            "judge.reasons.template (reason.toml)",
            "run.seed",
        ];
        assert_eq!(full().with_files(&keys), expected);
    }

    #[test]
    fn a_spec_takes_the_paths_of_the_same_run_and_nothing_else() {
        let mut elsewhere = full();
        for (_, path) in of(&mut elsewhere) {
            *path = std::path::Path::new("/elsewhere").join(&*path);
        }
        elsewhere.fleet.samplers += 1;
        let mut spec = full();
        spec.relocate(&elsewhere);
        elsewhere.fleet = full().fleet;
        assert_eq!(spec, elsewhere);

        let mut another = full();
        another.run.seed += 1;
        spec.relocate(&another);
        assert_eq!(spec, elsewhere);
    }
}
