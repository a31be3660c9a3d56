//! Where a task stands in a run's files.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A list of tasks that a run's files hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskList {
    /// Of `prompts.train`.
    Prompts,
    /// Of `prompts.held_out`.
    HeldOut,
    /// Of `evaluation.labelled`.
    Labelled,
}

/// A task, by the list that it stands in and its index there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct PromptPlace {
    /// The list.
    pub list: TaskList,
    /// The index, from 0.
    pub index: u32,
}

impl fmt::Display for PromptPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { list, index } = self;
        match list {
            TaskList::Prompts => write!(f, "prompt {index}"),
            TaskList::HeldOut => write!(f, "held-out prompt {index}"),
            TaskList::Labelled => write!(f, "the prompt of labelled pair {index}"),
        }
    }
}
