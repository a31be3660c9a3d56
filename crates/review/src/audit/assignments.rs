//! What a worker was given, beside what the results before it imply.

use gavel_core::ids::Digest;
use gavel_core::work::{Assignment, Pair, Policy, PromptTask, RewardedCandidate, RewardedGroup, Unit};

use super::finding::{Findings, Rule};

/// Compares; a wrong policy is told apart from the rest.
pub(super) fn check(
    rule: Rule,
    unit: &Unit,
    expected: &Assignment,
    found: Option<&Assignment>,
    findings: &mut Findings,
) {
    let Some(found) = found else {
        return findings.add(rule, unit, "was granted before what it needs existed");
    };
    if let (Some(expected), Some(found)) = (policy(expected), policy(found))
        && expected != found
    {
        let problem = format!(
            "worked on adapter {}, the step's is {}",
            found.adapter, expected.adapter
        );
        return findings.add(Rule::Policy, unit, problem);
    }
    if expected != found {
        let problem = format!(
            "the worker was given {}; what was accepted before implies {}",
            in_words(found),
            in_words(expected)
        );
        findings.add(rule, unit, problem);
    }
}

/// The policy that an assignment works on.
fn policy(assignment: &Assignment) -> Option<&Policy> {
    match assignment {
        Assignment::Sample { policy, .. } | Assignment::Gradient { policy, .. } | Assignment::Commit { policy, .. } => {
            Some(policy)
        }
        Assignment::EvaluateSample { policy, .. } => policy.as_ref(),
        Assignment::Initialise { .. }
        | Assignment::Judge { .. }
        | Assignment::WriteRubric { .. }
        | Assignment::AnswerQuestions { .. } => None,
    }
}

/// What an assignment asks for, in short.
fn in_words(assignment: &Assignment) -> String {
    let list = |items: Vec<String>| {
        if items.is_empty() {
            "nothing".to_owned()
        } else {
            items.join(", ")
        }
    };
    match assignment {
        Assignment::Initialise { adapter: None } => "a fresh policy".to_owned(),
        Assignment::Initialise { adapter: Some(adapter) } => format!("the policy of adapter {}", adapter.short()),
        Assignment::Sample { prompts, .. } | Assignment::EvaluateSample { prompts, .. } => {
            let prompt = |prompt: &PromptTask| format!("prompt {} `{}`", prompt.index, prompt.task.words);
            list(prompts.iter().map(prompt).collect())
        }
        Assignment::Judge { pairs } => {
            let pair = |pair: &Pair| {
                format!(
                    "pair {} `{}` ({} and {})",
                    pair.prompt_index,
                    pair.task.words,
                    pair.first.short(),
                    pair.second.short()
                )
            };
            list(pairs.iter().map(pair).collect())
        }
        Assignment::WriteRubric { task } => format!("the rubric of `{}`", task.words),
        Assignment::AnswerQuestions {
            prompt_index,
            image,
            questions,
            ..
        } => {
            let image = image.short();
            format!(
                "questions about the picture {image} of prompt {prompt_index}: {}",
                list(questions.clone())
            )
        }
        Assignment::Gradient { groups, policy_lag, .. } => {
            let candidate = |one: &RewardedCandidate| format!("{:+} for {}", one.reward, one.trajectory.short());
            let group = |group: &RewardedGroup| {
                format!(
                    "pair {} ({})",
                    group.prompt_index,
                    list(group.candidates.iter().map(candidate).collect())
                )
            };
            format!("{} at lag {policy_lag}", list(groups.iter().map(group).collect()))
        }
        Assignment::Commit { gradients, terms, .. } => {
            let gradients = list(gradients.iter().map(Digest::short).collect());
            format!("gradients {gradients} of {terms} terms")
        }
    }
}
