//! What `gavel run` shows while it works: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use gavel_core::run::{RunStatus, StepRecord};
use indicatif::{ProgressBar, ProgressStyle};

/// Steps whose mean duration gives the estimate.
const RECENT_STEPS: usize = 5;

/// The display of one run.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    steps_shown: usize,
    first: bool,
    phase: String,
    step: u32,
}

impl Progress {
    /// An empty display of a run of so many steps.
    pub(crate) fn start(steps: u32) -> Self {
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new(u64::from(steps));
            let style = ProgressStyle::with_template("{spinner} [{bar:24}] step {pos}/{len}  {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            bar.set_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self {
            bar,
            steps_shown: 0,
            first: true,
            phase: String::new(),
            step: 0,
        }
    }

    /// Prints a line of its own.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{line}")),
            None => println!("{line}"),
        }
    }

    /// Shows a state.
    pub(crate) fn update(&mut self, status: &RunStatus) {
        if self.first && status.step.0 > 0 {
            self.say(&format!("goes on after step {}", status.step));
            self.steps_shown = status.steps.len();
        }
        self.first = false;
        for step in status.steps.iter().skip(self.steps_shown) {
            if self.bar.is_none() {
                self.say(&step_line(step, status.steps_total));
            }
        }
        let phase = status.phase.to_string();
        if phase != self.phase {
            self.say(&format!("phase        {phase}"));
            self.phase = phase;
        }
        self.steps_shown = status.steps.len();
        self.step = status.step.0;
        if let Some(bar) = &self.bar {
            bar.set_position(u64::from(status.step.0));
            bar.set_message(message(status));
        }
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

fn step_line(step: &StepRecord, total: u32) -> String {
    format!(
        "step {}/{total}  pairs {} decided {}  reward {:+.3}  kl {:.5}  clipped {:.1} %  ratio deviation {:.1e}  grad norm {:.4}  {:.1} s",
        step.step,
        step.pairs,
        step.decided,
        step.reward_mean,
        step.kl,
        100.0 * step.clip_fraction,
        step.ratio_deviation,
        step.grad_norm,
        step.seconds.wall
    )
}

fn message(status: &RunStatus) -> String {
    let mut parts = Vec::new();
    if let Some(progress) = &status.progress {
        parts.push(format!(
            "{}/{} sampled {}/{} judged",
            progress.samples, progress.samples_total, progress.groups_judged, progress.groups_total
        ));
    }
    if let Some(step) = status.steps.last() {
        parts.push(format!(
            "decided {}/{} reward {:+.2} kl {:.4}",
            step.decided, step.pairs, step.reward_mean, step.kl
        ));
    }
    if let Some(rate) = status.evaluation.and_then(|evaluation| evaluation.win_rate) {
        parts.push(format!("win rate {:.2}", rate.value));
    }
    if let Some(left) = remaining(status) {
        parts.push(format!("about {} left", humantime::format_duration(left)));
    }
    parts.push(format!("waits for {}", status.waiting.text));
    parts.join("  ")
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
