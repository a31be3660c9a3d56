//! What shows of a run while it works: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use gavel_core::run::{RunStatus, StepRecord};
use gavel_core::work::AskedMatches;
use indicatif::{ProgressBar, ProgressStyle};

use crate::diagnostic::Result;
use crate::output;

/// Steps whose mean duration gives the estimate.
const RECENT_STEPS: usize = 5;
/// Lines say what a run waits for when there was nothing else to say for so long, and then after twice the time.
const PATIENCE: Duration = Duration::from_secs(30);
/// The bar and the count of steps; the message has what a terminal's width leaves.
const BAR: &str = "{spinner} [{bar:16}] step {pos}/{len}  {wide_msg}";

/// What becomes of a display whose lines nobody takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lines {
    /// It goes on, and so does the run.
    Told,
    /// It ends with an error: it is there for nothing else.
    Printed,
}

/// The display of one run.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    lines: Lines,
    quiet: Quiet,
    steps_shown: usize,
    first: bool,
    phase: String,
    step: u32,
}

impl Progress {
    /// An empty display of a run of so many steps.
    pub(crate) fn start(steps: u32, lines: Lines) -> Self {
        // The bar is drawn on standard error, in place of lines on standard output.
        let is_watched = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let bar = is_watched.then(|| {
            let bar = ProgressBar::new(u64::from(steps));
            let style = ProgressStyle::with_template(BAR)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            bar.set_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self {
            bar,
            lines,
            quiet: Quiet::since(Instant::now()),
            steps_shown: 0,
            first: true,
            phase: String::new(),
            step: 0,
        }
    }

    /// Shows a line of its own.
    ///
    /// # Errors
    /// As [`Lines`] says.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        self.quiet = Quiet::since(Instant::now());
        let write = || match self.lines {
            Lines::Told => {
                output::tell(line);
                Ok(())
            }
            Lines::Printed => output::print_line(line),
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Shows a state.
    ///
    /// # Errors
    /// As [`Lines`] says.
    pub(crate) fn update(&mut self, status: &RunStatus) -> Result<()> {
        if self.first && status.step.0 > 0 {
            self.say(&format!("goes on after step {}", status.step))?;
            self.steps_shown = status.steps.len();
        }
        self.first = false;
        for step in status.steps.iter().skip(self.steps_shown) {
            if self.bar.is_none() {
                self.say(&format!("step {}/{}  {}", step.step, status.steps_total, figures(step)))?;
            }
        }
        let phase = status.phase.to_string();
        if phase != self.phase {
            self.say(&format!("phase        {phase}"))?;
            self.phase = phase;
        }
        self.steps_shown = status.steps.len();
        self.step = status.step.0;
        match &self.bar {
            Some(bar) => {
                bar.set_position(u64::from(status.step.0));
                bar.set_message(message(status));
                Ok(())
            }
            None => self.say_what_it_waits_for(status),
        }
    }

    fn say_what_it_waits_for(&mut self, status: &RunStatus) -> Result<()> {
        let Some(quiet) = self.quiet.broken(Instant::now()).filter(|_| !status.phase.is_ended()) else {
            return Ok(());
        };
        self.say(&format!("waits for    {}", status.waiting.text))?;
        self.quiet = quiet;
        Ok(())
    }

    /// The latest committed step that was shown.
    pub(super) fn step(&self) -> u32 {
        self.step
    }

    /// Removes the bar.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How long nothing was said, and how long that may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quiet {
    since: Instant,
    bears: Duration,
}

impl Quiet {
    fn since(now: Instant) -> Self {
        Self {
            since: now,
            bears: PATIENCE,
        }
    }

    /// If it lasts too long at `now`: the one that follows, which bears twice as much.
    fn broken(self, now: Instant) -> Option<Self> {
        (now.duration_since(self.since) >= self.bears).then(|| Self {
            since: now,
            bears: 2 * self.bears,
        })
    }
}

/// A step's figures, but for those that are what they are by construction: the rewards of a pair are given, and a policy that is
/// sampled and trained in turn has nothing clipped.
pub(crate) fn figures(step: &StepRecord) -> String {
    let mut parts = vec![format!("pairs {} decided {}", step.pairs, step.decided)];
    parts.extend(step.asked.as_ref().map(asked));
    parts.extend(step.diversity.map(|diversity| format!("diversity {diversity:.3}")));
    parts.extend(step.score.map(|score| format!("score {score:.4}")));
    parts.extend(step.held_out_score.map(|score| format!("held-out score {score:.4}")));
    let agreement = step.held_out_agreement.zip(step.held_out_pairs);
    parts.extend(agreement.map(|(share, pairs)| format!("held-out agreement {share:.2} of {pairs}")));
    parts.push(format!("kl {:.5}", step.kl));
    if step.clip_fraction > 0.0 {
        parts.push(format!("clipped {:.1} %", 100.0 * step.clip_fraction));
    }
    parts.push(format!("ratio deviation {:.1e}", step.ratio_deviation));
    parts.push(format!("grad norm {:.4}", step.grad_norm));
    parts.push(format!("{:.1} s", step.seconds.wall));
    parts.join("  ")
}

/// How matches were asked, in few words.
pub(crate) fn asked(matches: &AskedMatches) -> String {
    let AskedMatches {
        once,
        twice,
        flipped,
        too_alike,
    } = matches;
    let mut text = format!("asked once {once}, in both orders {twice} ({flipped} flipped)");
    if *too_alike > 0 {
        text += &format!(", too alike {too_alike}");
    }
    text
}

/// What matters most comes first: what a narrow terminal has no room for is cut off at the end.
fn message(status: &RunStatus) -> String {
    let last = status.steps.last();
    let mut parts = essentials(remaining(status), last.map(|step| (step.decided, step.pairs)));
    if let Some(rate) = status.evaluation.and_then(|evaluation| evaluation.win_rate) {
        parts.push(format!("win rate {:.2}", rate.value));
    }
    if let Some(asked) = status.evaluation.and_then(|evaluation| evaluation.questions) {
        parts.push(format!("{}/{} questions", asked.asked, asked.total));
    }
    if let Some(progress) = &status.progress {
        parts.push(format!(
            "{}/{} sampled {}/{} judged",
            progress.samples, progress.samples_total, progress.groups_judged, progress.groups_total
        ));
    }
    parts.extend(last.map(|step| format!("kl {:.4}", step.kl)));
    parts.push(format!("waits for {}", status.waiting.text));
    parts.join("  ")
}

/// What the narrowest terminal shows.
fn essentials(left: Option<Duration>, decided: Option<(u32, u32)>) -> Vec<String> {
    let left = left.map(|left| format!("{} left", rounded(left)));
    let decided = decided.map(|(decided, pairs)| format!("decided {decided}/{pairs}"));
    left.into_iter().chain(decided).collect()
}

/// A duration as an estimate is told: to the second below ten minutes, to the minute below a day, to the hour above.
fn rounded(duration: Duration) -> humantime::FormattedDuration {
    let seconds = duration.as_secs();
    let unit = match seconds {
        0..600 => 1,
        600..86_400 => 60,
        _ => 3600,
    };
    humantime::format_duration(Duration::from_secs(seconds.div_ceil(unit) * unit))
}

/// Time until the last step, from the mean of the recent ones.
fn remaining(status: &RunStatus) -> Option<Duration> {
    let recent = &status.steps[status.steps.len().saturating_sub(RECENT_STEPS)..];
    let left = status.steps_total.saturating_sub(status.step.0);
    if recent.is_empty() || left == 0 {
        return None;
    }
    let mean = recent.iter().map(|step| step.seconds.wall).sum::<f64>() / recent.len() as f64;
    Some(Duration::from_secs((mean * f64::from(left)).max(0.0) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eighty_columns_have_room_for_the_time_that_is_left_and_what_was_decided() {
        let before = "- [================] step 299/300  ".len();
        for (seconds, left) in [(288, "4m 48s"), (27_350, "7h 36m"), (183_590, "2days 3h")] {
            let shown = essentials(Some(Duration::from_secs(seconds)), Some((15_000, 16_384))).join("  ");
            assert_eq!(shown, format!("{left} left  decided 15000/16384"));
            assert!(before + shown.len() <= 80);
        }
    }

    #[test]
    fn a_run_that_does_nothing_is_told_of_ever_more_seldom() {
        let start = Instant::now();
        let mut quiet = Quiet::since(start);
        let mut told = Vec::new();
        for second in 1..=300 {
            if let Some(next) = quiet.broken(start + Duration::from_secs(second)) {
                told.push(second);
                quiet = next;
            }
        }
        assert_eq!(told, [30, 90, 210]);
    }
}
