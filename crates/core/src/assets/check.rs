//! Whether a run's files fit: into the coordinator's memory, and into the messages that carry them.

use serde_json::Value;

use crate::bounds::{self, Bound};
use crate::rpo;
use crate::spec::{Problems, RunSpec};
use crate::work::Task;

use super::{Annotation, HeldOutJudgeAssets, RunAssets};

/// What a task weighs beside its words: its place in a list, and in a message its index and the hashes of two pictures.
const TASK_BYTES: u64 = 160;
/// What a prompt weighs besides whose rubric is written: where that is done, who did it, and the text's hash.
const WRITTEN_BYTES: u64 = 160;
/// What a source picture weighs: its hash, in memory and in a message.
const SOURCE_BYTES: u64 = 40;
/// What a value weighs that was given along with a task.
const VALUE_BYTES: u64 = 160;
/// What a held-out prompt or a labelled pair weighs with its pictures, its verdict and its units.
const JUDGED_BYTES: u64 = 640;
/// What a question about a picture weighs besides its words, with an answer about each of two pictures.
const QUESTION_BYTES: u64 = 160;
/// What a match weighs with its verdict.
const MATCH_BYTES: u64 = 256;
/// What a candidate weighs with its blobs.
const CANDIDATE_BYTES: u64 = 96;
/// What a prompt of a step weighs with its units.
const PROMPT_BYTES: u64 = 256;
/// What a run weighs that has nothing.
const RUN_BYTES: u64 = 64 << 10;

impl RunAssets {
    /// Checks the files of a run that is to be submitted: each of them, all together, and what one unit takes of them.
    ///
    /// # Errors
    /// All problems at once, each with its key, what was found and what is taken.
    pub fn check(&self, spec: &RunSpec) -> Result<(), Problems> {
        let mut problems = Problems::default();
        problems.require(!self.prompts.is_empty(), "prompts.train", || {
            "the file holds no prompt".into()
        });
        let labelled: Vec<&Task> = self.labelled.iter().map(|pair| &pair.task).collect();
        check_tasks(self.prompts.iter(), bounds::PROMPTS, "prompts.train", &mut problems);
        check_tasks(
            self.held_out.iter(),
            bounds::HELD_OUT,
            "prompts.held_out",
            &mut problems,
        );
        check_tasks(
            labelled.iter().copied(),
            bounds::LABELLED,
            "evaluation.labelled",
            &mut problems,
        );
        let held_out = self.held_out_judge.iter();
        for (rubrics, key) in [(&self.prompt_rubrics, "judge.rubric")]
            .into_iter()
            .chain(held_out.map(|held_out| (&held_out.prompt_rubrics, "judge.held_out.rubric")))
        {
            check_tasks(
                rubrics.iter().map(|one| &one.task),
                bounds::PROMPT_RUBRICS,
                key,
                &mut problems,
            );
            problems.require(rubrics.is_in_order(), key, || {
                "the prompts with a rubric of their own came out of order, or one came twice".into()
            });
        }
        let values = self.annotated().count();
        problems.at_most(values as u64, bounds::ANNOTATIONS, "prompts.train");
        for (key, text) in self.documents() {
            problems.length(text, bounds::DOCUMENT, key);
        }
        problems.require(
            self.initial_adapter.is_some() == spec.lora.init.is_some(),
            "lora.init",
            || match spec.lora.init {
                Some(_) => "the adapter did not come with the run's files".into(),
                None => "an adapter came with the run's files, and the specification names none".into(),
            },
        );
        let members = spec.judge.back_end.members().len();
        problems.require(self.member_templates.len() == members, "judge.members", || {
            format!("{} templates came for {members} members", self.member_templates.len())
        });
        let held_out = spec.judge.held_out.as_ref();
        let expected = held_out.map(|held_out| held_out.back_end.members().len());
        let found = self.held_out_judge.as_ref();
        let found = found.map(|held_out| held_out.member_templates.len());
        problems.require(found == expected, "judge.held_out", || match (expected, found) {
            (None, _) => "a held-out judge came with the run's files, and the specification names none".into(),
            (_, None) => "rubric and template of the held-out judge did not come with the run's files".into(),
            (Some(expected), Some(found)) => format!("{found} templates came for {expected} members"),
        });
        let writer = spec.judge.writer.as_ref();
        problems.require(
            self.writer_template.is_some() == writer.is_some(),
            "judge.writer",
            || match writer {
                Some(_) => "the writer's template did not come with the run's files".into(),
                None => "a writer's template came with the run's files, and the specification names none".into(),
            },
        );
        problems.require(
            writer.is_none_or(|writer| writer.nearest == 0) || !self.labelled.is_empty(),
            "judge.writer.nearest",
            || {
                "there are no labelled pairs to show: set `evaluation.labelled`, or 0 to write from the prompt alone"
                    .into()
            },
        );
        self.check_questions(spec, &mut problems);
        let files = self.text_bytes();
        problems.require(bounds::FILES.admits(files), "prompts.train", || {
            let most = bounds::FILES.most;
            format!("the texts of the run's files have {files} bytes together, at most {most} are taken")
        });
        self.check_units(spec, &mut problems);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// How much memory the coordinator needs at most to hold these files and the steps in flight. What the committed steps leave
    /// comes to that.
    pub fn footprint(&self, spec: &RunSpec) -> u64 {
        let tasks = self.tasks().count() as u64;
        let judged = (self.held_out.len() + self.labelled.len()) as u64;
        let sources: usize = self.tasks().map(|task| task.sources.len()).sum();
        let written = if spec.judge.writer.is_some() { WRITTEN_BYTES } else { 0 };
        let prompts = u64::from(spec.prompts.per_step);
        let candidates = prompts * u64::from(spec.sampling.candidates);
        // A held-out judge may see all of them.
        let judges = 1 + u64::from(spec.judge.held_out.is_some());
        let matches = spec.matches_per_step() * judges;
        let step = prompts * PROMPT_BYTES + candidates * CANDIDATE_BYTES + matches * MATCH_BYTES;
        let ahead = 1 + u64::from(spec.sampling.max_policy_lag);
        RUN_BYTES
            + self.text_bytes()
            + tasks * (TASK_BYTES + written)
            + sources as u64 * SOURCE_BYTES
            + judged * JUDGED_BYTES
            + self.questions.iter().flatten().count() as u64 * QUESTION_BYTES
            + self.annotated().count() as u64 * VALUE_BYTES
            + step * ahead
    }

    fn tasks(&self) -> impl Iterator<Item = &Task> {
        let labelled = self.labelled.iter().map(|pair| &pair.task);
        let held_out_judge = self.held_out_judge.iter();
        let rubrics = held_out_judge.flat_map(|held_out| held_out.prompt_rubrics.iter());
        let rubrics = self.prompt_rubrics.iter().chain(rubrics).map(|one| &one.task);
        self.prompts.iter().chain(&self.held_out).chain(labelled).chain(rubrics)
    }

    fn documents(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let members = self.member_templates.iter();
        let reasons = self.reason_template.iter();
        let writer = self.writer_template.iter();
        [("judge.rubric", &self.rubric.text), ("judge.template", &self.template)]
            .into_iter()
            .chain(members.map(|text| ("judge.members.template", text)))
            .chain(reasons.map(|text| ("judge.reasons.template", text)))
            .chain(writer.map(|text| ("judge.writer.template", text)))
            .chain(self.held_out_judge.iter().flat_map(HeldOutJudgeAssets::documents))
            .map(|(key, text)| (key, text.as_str()))
    }

    fn text_bytes(&self) -> u64 {
        let words = self.tasks().map(|task| task.words.len());
        let documents = self.documents().map(|(_, text)| text.len());
        let annotations = self.annotated();
        let questions = self.questions.iter().flatten().map(String::len);
        words
            .chain(documents)
            .chain(questions)
            .chain(annotations)
            .map(|bytes| bytes as u64)
            .sum()
    }

    /// The length of the text of every value that was given along with a task: names and texts have one, numbers have none.
    fn annotated(&self) -> impl Iterator<Item = usize> {
        let annotations = self.annotations.prompts.values();
        annotations.chain(self.annotations.held_out.values()).flat_map(values)
    }

    /// Checks what is asked about held-out pictures: how much it is, and that somebody can answer.
    fn check_questions(&self, spec: &RunSpec, problems: &mut Problems) {
        const AT: &str = "prompts.held_out";
        let (prompts, held_out) = (self.questions.len(), self.held_out.len());
        problems.require(prompts <= held_out, AT, || {
            format!("questions came for {prompts} prompts, and there are {held_out}")
        });
        let count = self.questions.iter().flatten().count() as u64;
        problems.at_most(count, bounds::QUESTIONS, AT);
        for (questions, number) in self.questions.iter().zip(1_u64..) {
            let most = bounds::QUESTIONS_EACH.most;
            problems.require(bounds::QUESTIONS_EACH.admits(questions.len() as u64), AT, || {
                let found = questions.len();
                format!("task {number} has {found} questions, at most {most} are taken")
            });
            let longest = questions.iter().map(String::len).max().unwrap_or(0) as u64;
            problems.require(bounds::QUESTION.admits(longest), AT, || {
                let most = bounds::QUESTION.most;
                format!("task {number} has a question of {longest} bytes, at most {most} are taken")
            });
        }
        problems.require(
            count == 0 || spec.judge.back_end.writer().is_some(),
            "judge.family",
            || "there are questions about pictures, and the judge has no model that answers in words".into(),
        );
        problems.require(count == 0 || spec.evaluation.is_some(), "evaluation", || {
            "there are questions about held-out pictures, and the run evaluates nothing".into()
        });
    }

    /// A unit travels in one message: no unit may be larger, whichever prompts it has.
    fn check_units(&self, spec: &RunSpec, problems: &mut Problems) {
        let largest = |tasks: &mut dyn Iterator<Item = &Task>| {
            let bytes = |task: &Task| task.words.len() as u64 + task.sources.len() as u64 * SOURCE_BYTES + TASK_BYTES;
            tasks.map(bytes).max().unwrap_or(0)
        };
        let prompt = largest(&mut self.prompts.iter());
        let held_out = largest(&mut self.held_out.iter());
        let labelled = largest(&mut self.labelled.iter().map(|pair| &pair.task));
        let matches = rpo::match_count(spec.sampling.candidates.into()) as u64;
        let evaluation = spec.evaluation.as_ref().map_or(0, |evaluation| evaluation.batch);
        // No unit has more prompts than a step or a file.
        let per_step = |batch: u32| u64::from(batch.min(spec.prompts.per_step));
        let of_file = |batch: u32, file: usize| u64::from(batch).min(file as u64);
        let judge = spec.judge.batch;
        let units = [
            ("sampling.batch", per_step(spec.sampling.batch) * prompt),
            ("evaluation.batch", of_file(evaluation, self.held_out.len()) * held_out),
            ("judge.batch", per_step(judge) * matches * prompt),
            ("judge.batch", of_file(judge, self.held_out.len()) * held_out),
            ("judge.batch", of_file(judge, self.labelled.len()) * labelled),
        ];
        for (key, bytes) in units {
            problems.require(bounds::LEASE.admits(bytes), key, || {
                let most = bounds::LEASE.most;
                format!("a unit of so many prompts may take {bytes} bytes, at most {most} are taken: make it smaller")
            });
        }
        let verdicts = per_step(judge) * matches;
        problems.require(bounds::VERDICTS.admits(verdicts), "judge.batch", || {
            let most = bounds::VERDICTS.most;
            format!("a unit of so many prompts has {verdicts} verdicts, at most {most} are taken: make it smaller")
        });
    }
}

impl HeldOutJudgeAssets {
    fn documents(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let members = self.member_templates.iter();
        [
            ("judge.held_out.rubric", &self.rubric.text),
            ("judge.held_out.template", &self.template),
        ]
        .into_iter()
        .chain(members.map(|text| ("judge.held_out.members.template", text)))
    }
}

fn values(annotation: &Annotation) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut open: Vec<&Value> = Vec::new();
    for (name, value) in &annotation.fields {
        lengths.push(name.len());
        open.push(value);
    }
    while let Some(value) = open.pop() {
        match value {
            Value::Array(list) => open.extend(list),
            Value::Object(fields) => {
                lengths.extend(fields.keys().map(String::len));
                open.extend(fields.values());
            }
            Value::String(text) => lengths.push(text.len()),
            Value::Null | Value::Bool(_) | Value::Number(_) => lengths.push(0),
        }
    }
    lengths
}

/// Checks the tasks of one file. The first that is too large is told; the text itself may be anything.
fn check_tasks<'a>(tasks: impl Iterator<Item = &'a Task>, bound: Bound, key: &str, problems: &mut Problems) {
    let mut count = 0;
    for (task, number) in tasks.zip(1_u64..) {
        count = number;
        let (words, sources) = (task.words.len() as u64, task.sources.len() as u64);
        problems.require(bounds::WORDS.admits(words), key, || {
            format!(
                "task {number} has {words} bytes of words, at most {} are taken",
                bounds::WORDS.most
            )
        });
        problems.require(bounds::SOURCES.admits(sources), key, || {
            format!(
                "task {number} has {sources} source pictures, at most {} are taken",
                bounds::SOURCES.most
            )
        });
    }
    problems.require(bound.admits(count), key, || {
        format!("{count} {} came, at most {} are taken", bound.unit, bound.most)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RubricText;
    use crate::ids::Digest;
    use crate::run::fixtures::{assets, spec};
    use crate::spec::JudgeBackEnd;

    fn problem(assets: &RunAssets, spec: &RunSpec) -> String {
        assets
            .check(spec)
            .map_or_else(|problems| problems.to_string(), |()| String::new())
    }

    #[test]
    fn files_within_their_bounds_pass() {
        assert_eq!(problem(&assets(), &spec()), "");
    }

    #[test]
    fn each_file_that_is_too_large_is_named_with_found_and_allowed() {
        let with = |change: fn(&mut RunAssets)| {
            let mut assets = assets();
            change(&mut assets);
            problem(&assets, &spec())
        };
        let long = || "x".repeat(16_385);
        for (found, expected) in [
            (
                with(|assets| assets.prompts.clear()),
                "prompts.train: the file holds no prompt",
            ),
            (
                with(|assets| assets.held_out = vec!["p".into(); 20_001]),
                "prompts.held_out: 20001 prompts came, at most 20000 are taken",
            ),
            (
                with(|assets| assets.prompts = vec!["p".into(); 250_001]),
                "prompts.train: 250001 prompts came, at most 250000 are taken",
            ),
            (
                with(|assets| assets.rubric = RubricText::new("x".repeat(131_073))),
                "judge.rubric: must have at most 131072 bytes, not 131073",
            ),
            (
                with(|assets| assets.prompts[0].sources = vec![Digest::of(b""); 17]),
                "prompts.train: task 1 has 17 source pictures, at most 16 are taken",
            ),
        ] {
            assert_eq!(found, expected);
        }
        let mut assets = assets();
        assets.labelled[0].task.words = long();
        let expected = "evaluation.labelled: task 1 has 16385 bytes of words, at most 16384 are taken";
        assert_eq!(problem(&assets, &spec()), expected);
    }

    #[test]
    fn questions_that_nobody_can_answer_or_that_are_too_many_are_refused() {
        let with = |change: &dyn Fn(&mut RunAssets, &mut RunSpec)| {
            let (mut assets, mut spec) = (assets(), spec());
            assets.questions = vec![vec!["Is it red?".into()], vec![]];
            change(&mut assets, &mut spec);
            problem(&assets, &spec)
        };
        assert_eq!(with(&|_, _| {}), "");
        let expected = "prompts.held_out: questions came for 6 prompts, and there are 5";
        assert_eq!(with(&|assets, _| assets.questions = vec![vec![]; 6]), expected);
        let expected = "prompts.held_out: task 2 has 257 questions, at most 256 are taken";
        assert_eq!(with(&|assets, _| assets.questions[1] = vec!["?".into(); 257]), expected);
        let expected = "prompts.held_out: task 1 has a question of 20481 bytes, at most 20480 are taken";
        assert_eq!(
            with(&|assets, _| assets.questions[0] = vec!["x".repeat(20_481)]),
            expected
        );
        let told = with(&|_, spec| spec.evaluation = None);
        assert!(told.starts_with("evaluation: "), "{told}");
        let told = with(&|_, spec| spec.judge.back_end = JudgeBackEnd::Clip(Default::default()));
        assert!(told.contains("no model that answers in words"), "{told}");
    }

    #[test]
    fn texts_that_pass_one_by_one_are_bounded_together() {
        let mut assets = assets();
        assets.prompts = vec!["x".repeat(16_384).into(); 1_025];
        assert!(problem(&assets, &spec()).contains("bytes together, at most 16777216 are taken"));
    }

    #[test]
    fn a_unit_that_fits_no_message_is_refused_by_the_key_that_makes_it_so_large() {
        let (mut spec, mut assets) = (spec(), assets());
        assets.prompts = vec!["x".repeat(16_000).into(); 3];
        spec.prompts.per_step = 2_000;
        spec.sampling.batch = 2_000;
        spec.judge.batch = 1;
        let found = problem(&assets, &spec);
        assert!(
            found.starts_with("sampling.batch: a unit of so many prompts may take 32320000 bytes"),
            "{found}"
        );
        spec.sampling.batch = 1;
        spec.judge.batch = 2_000;
        let found = problem(&assets, &spec);
        assert!(
            found.starts_with("judge.batch: a unit of so many prompts may take"),
            "{found}"
        );
    }

    #[test]
    fn the_footprint_counts_what_a_submitter_decides() {
        let (mut spec, mut assets) = (spec(), assets());
        let small = assets.footprint(&spec);
        assert!(small < 1 << 20, "{small}");
        assets.prompts = vec!["p".into(); 250_000];
        let with_prompts = assets.footprint(&spec);
        assert!(with_prompts > small + 250_000 * 100, "{with_prompts}");
        spec.prompts.per_step = 10_000;
        spec.sampling.max_policy_lag = 16;
        assert!(assets.footprint(&spec) > with_prompts + 17 * 10_000 * 256);
    }
}
