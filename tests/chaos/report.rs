//! The report of a chaos run, for people.

use std::fmt::Write as _;
use std::time::Duration;

use super::faults::Fault;
use super::outcome::Outcome;
use super::round::{Chaos, Round};

/// What is told.
pub(crate) struct Report<'a> {
    pub(crate) command: String,
    pub(crate) undisturbed: &'a Round,
    pub(crate) rounds: &'a [Round],
    pub(crate) chaos: &'a Chaos,
    pub(crate) wall: Duration,
    /// Why it ended early, if it did.
    pub(crate) failure: Option<String>,
}

impl Report<'_> {
    /// The report as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let sum = |of: fn(&Round) -> u32| self.rounds.iter().map(of).sum::<u32>();
        let equal = |round: &&Round| round.outcome == self.undisturbed.outcome;
        writeln!(text, "# Chaos report\n\n`{}`\n", self.command)?;
        if let Some(failure) = &self.failure {
            writeln!(text, "**Failed**: {failure}\n")?;
        }
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        writeln!(text, "| what | count |\n|---|---|")?;
        writeln!(text, "| runs, disturbed | {} |", self.rounds.len())?;
        let same = self.rounds.iter().filter(equal).count();
        writeln!(text, "| of these equal to the undisturbed run | {same} |")?;
        writeln!(text, "| processes killed with -9 | {} |", sum(|round| round.kills))?;
        writeln!(text, "| faults | {} |", self.chaos.struck.values().sum::<u32>())?;
        writeln!(text, "| processes started again | {} |", sum(|round| round.restarts))?;
        writeln!(
            text,
            "| coordinators that ended by themselves, disk full | {} |",
            self.chaos.ended_full
        )?;
        writeln!(text, "| leases granted | {} |", sum(|round| round.tally.granted))?;
        writeln!(
            text,
            "| units accepted, each once | {} |",
            sum(|round| round.tally.accepted - round.tally.made_again)
        )?;
        writeln!(text, "| leases expired | {} |", sum(|round| round.tally.expired))?;
        writeln!(text, "| leases given back | {} |", sum(|round| round.tally.released))?;
        writeln!(
            text,
            "| attempts that workers reported as failed | {} |",
            sum(|round| round.tally.failed)
        )?;
        writeln!(
            text,
            "| reports of lost or changed inputs | {} |",
            sum(|round| round.tally.losses)
        )?;
        writeln!(
            text,
            "| units made again for that reason | {} |",
            sum(|round| round.tally.made_again)
        )?;
        writeln!(
            text,
            "| runs submitted again, for a picture of the submission | {} |",
            sum(|round| round.tally.submitted_again)
        )?;
        writeln!(
            text,
            "| times a coordinator took a run over | {} |",
            sum(|round| round.tally.taken_over)
        )?;
        writeln!(text, "| cores of the machine | {cores} |")?;
        writeln!(text, "| wall time | {} |", seconds(self.wall))?;
        writeln!(
            text,
            "| wall time of the undisturbed run | {} |\n",
            seconds(self.undisturbed.wall)
        )?;

        writeln!(text, "## Faults\n\n| fault | times |\n|---|---|")?;
        for (fault, count) in &self.chaos.struck {
            writeln!(text, "| {fault} | {count} |")?;
        }
        for (fault, reason) in self.chaos.skipped.iter().filter(|(fault, _)| self.never_struck(fault)) {
            writeln!(text, "| {fault} | never: {reason} |")?;
        }
        writeln!(
            text,
            "\n## Hashes\n\n| table | SHA-256 of the undisturbed run |\n|---|---|"
        )?;
        for (name, digest) in self.undisturbed.outcome.hashes() {
            writeln!(text, "| {name} | {digest} |")?;
        }
        writeln!(
            text,
            "\n## Runs\n\n| run | killed | started again | leases expired | wall | adapter | equal |\n|---|---|---|---|---|---|---|"
        )?;
        for (number, round) in self.rounds.iter().enumerate() {
            let same = if equal(&round) { "yes" } else { "NO" };
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {same} |",
                number + 1,
                round.kills,
                round.restarts,
                round.tally.expired,
                seconds(round.wall),
                short(&round.outcome),
            )?;
        }
        Ok(())
    }

    fn never_struck(&self, fault: &Fault) -> bool {
        !self.chaos.struck.contains_key(fault)
    }
}

fn short(outcome: &Outcome) -> String {
    outcome.adapter.short()
}

fn seconds(duration: Duration) -> String {
    format!("{:.0} s", duration.as_secs_f64())
}
