//! What can be known about a run in a moment, before anything is started: `gavel run` looks at it each time.
//!
//! Model folders are judged by their settings and headers; no weight is read. `gavel doctor` loads the models and asks the
//! judge.

mod folders;
mod machine;

use std::path::Path;
use std::time::Instant;

use gavel_core::spec::RunSpec;
use gavel_review::RunFolder;

use crate::assets::{self, Files};
use crate::checks::Checks;
use crate::diagnostic::{Diagnostic, Result};
use crate::output;
pub(crate) use folders::{
    HostedJudge, endpoints, judges, size, source_counts, text_encoder, too_long, too_long_prompts,
};
pub(crate) use machine::{Weights, folder, memory, ports};

/// Checks files, model folders, adapter, judge, memory, the run's folder and its ports, and prints a line when all is well.
///
/// # Errors
/// The problem, or all of them printed and their number.
pub(crate) fn preflight(spec: &RunSpec, out: &Path, resume: bool) -> Result<Files> {
    let started = Instant::now();
    let mut checks = Checks::default();
    let files = assets::read_all(spec, &mut checks);
    let mut notices: Vec<String> = files.iter().flat_map(Files::notices).collect();
    let model = checks.note(folders::model(spec));
    if let Some(model) = model.as_deref() {
        checks.note(folders::adapter(spec, model));
        checks.note(folders::size(spec, model));
        checks.note(folders::sources(model, files.as_ref()));
        let found = files.as_ref().map(|files| too_long_prompts(spec, model, &files.assets));
        notices.extend(found.and_then(|found| checks.note(found)).into_iter().flatten());
    }
    let judges = checks.note(judges(spec));
    for judge in judges.iter().flatten() {
        checks.note(folders::question(spec, judge, files.as_ref()));
    }
    if spec.fleet.judges > 0 {
        checks.note(endpoints(spec));
    }
    let text_encoder = checks.note(text_encoder(spec));
    if let (Some(model), Some(judges), Some(text_encoder)) = (model.as_deref(), &judges, text_encoder) {
        checks.note(memory(spec, &Weights::of(spec, model, judges, text_encoder)));
    }
    checks.note(match resume {
        true => Ok(()),
        false => RunFolder::check_new(out),
    });
    checks.note(folder(out));
    checks.note(ports(spec));
    let count = checks.count();
    let mut problems = checks.problems();
    match (problems.len(), files) {
        (0, Some(files)) => {
            let seconds = started.elapsed().as_secs_f64();
            output::tell(format_args!("preflight    ok, {count} checks in {seconds:.1} s"));
            for notice in &notices {
                output::tell(format_args!("notice       {notice}"));
            }
            Ok(files)
        }
        (1, _) => Err(problems.swap_remove(0)),
        (failed, _) => {
            for problem in &problems {
                output::note(problem.render().trim_end());
            }
            Err(
                Diagnostic::new(format!("{failed} of {count} checks failed; nothing was started"))
                    .with_hint("correct what is named above; `gavel doctor` also loads the models and asks the judge"),
            )
        }
    }
}
