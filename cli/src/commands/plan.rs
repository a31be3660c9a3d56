//! `gavel plan`: what a fleet would do all day, before there is one.

use clap::Args;
use gavel_core::forecast::{Bound, Discipline, Forecast, StageSeconds, Workers, bound, forecast};
use gavel_core::spec::RunSpec;
use gavel_core::work::Role;
use serde::Serialize;

use crate::config::{self, ConfigArguments, FleetArguments};
use crate::diagnostic::Result;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    /// What a sampler takes for one prompt, all candidates, for example 8s.
    #[arg(long, value_name = "DURATION")]
    pub(crate) sample: humantime::Duration,
    /// What a judge takes for one prompt: one pair, or all pairs of a larger group.
    #[arg(long, value_name = "DURATION")]
    pub(crate) judge: humantime::Duration,
    /// What a trainer takes for the gradient of one prompt's candidates.
    #[arg(long, value_name = "DURATION")]
    pub(crate) gradient: humantime::Duration,
    /// What a trainer takes for an optimizer step.
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub(crate) commit: humantime::Duration,
    #[command(flatten)]
    pub(crate) fleet: FleetArguments,
    /// Steps to go through; a run's steps take alike.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) steps: u32,
    /// Print the forecasts as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Plan {
    /// Steps that were gone through.
    steps: u32,
    workers: Workers,
    seconds: StageSeconds,
    schedules: Vec<Schedule>,
    /// The configuration's own schedule, with one more worker of a role.
    one_more: Vec<OneMore>,
}

#[derive(Debug, Serialize)]
struct Schedule {
    name: String,
    forecast: Forecast,
    bound: Bound,
}

#[derive(Debug, Serialize)]
struct OneMore {
    role: Role,
    step_seconds: f64,
}

pub(super) fn plan(arguments: &PlanArguments) -> Result<()> {
    let mut spec = config::load_with(&arguments.config, arguments.fleet)?;
    let whole_run = spec.run.steps;
    spec.run.steps = arguments.steps.clamp(1, whole_run);
    let workers = Workers {
        samplers: spec.fleet.samplers,
        judges: spec.fleet.judges,
        trainers: spec.fleet.trainers,
    };
    let seconds = StageSeconds {
        sample: arguments.sample.as_secs_f64(),
        judge: arguments.judge.as_secs_f64(),
        gradient: arguments.gradient.as_secs_f64(),
        commit: arguments.commit.as_secs_f64(),
    };
    let plan = Plan::make(&spec, workers, seconds)?;
    if arguments.json {
        output::print_line(serde_json::to_string(&plan)?)?;
    } else {
        output::print(plan.describe(whole_run))?;
    }
    Ok(())
}

impl Plan {
    fn make(spec: &RunSpec, workers: Workers, seconds: StageSeconds) -> Result<Self> {
        let mut schedules = Vec::new();
        let mut add = |name: String, spec: &RunSpec, discipline| -> Result<()> {
            schedules.push(Schedule {
                name,
                forecast: forecast(spec, workers, seconds, discipline)?,
                bound: bound(spec, workers, seconds)?,
            });
            Ok(())
        };
        add("phase by phase".into(), &with_lag(spec, 0), Discipline::PhaseByPhase)?;
        let own = spec.sampling.max_policy_lag;
        let mut lags = vec![0, 1, 2];
        if !lags.contains(&own) {
            lags.push(own);
        }
        for lag in lags {
            let mark = if lag == own { " *" } else { "" };
            add(
                format!("streamed, lag {lag}{mark}"),
                &with_lag(spec, lag),
                Discipline::Streamed,
            )?;
        }
        let one_more = [Role::Sampler, Role::Judge, Role::Trainer].into_iter().map(|role| {
            let more = forecast(spec, workers.with_one_more(role), seconds, Discipline::Streamed)?;
            Ok(OneMore {
                role,
                step_seconds: more.step_seconds,
            })
        });
        let one_more = one_more.collect::<Result<_>>()?;
        Ok(Self {
            steps: spec.run.steps,
            workers,
            seconds,
            schedules,
            one_more,
        })
    }

    fn describe(&self, whole_run: u32) -> String {
        let Workers {
            samplers,
            judges,
            trainers,
        } = self.workers;
        let mut text = format!(
            "{samplers} samplers, {judges} judges, {trainers} trainers; {} steps gone through, every pair decided, no evaluation\n\n\
             schedule             per step   {whole_run:>5} steps   samplers   judges  trainers    bound   of the bound\n",
            self.steps
        );
        let steps = f64::from(self.steps);
        for Schedule { name, forecast, bound } in &self.schedules {
            let percent = |share: f64| format!("{:.0} %", 100.0 * share);
            let least = bound.seconds() / steps;
            text += &format!(
                "{name:<18} {:>9.1}s {:>10.1}h {:>10} {:>8} {:>9} {least:>7.1}s {:>14}\n",
                forecast.step_seconds,
                forecast.step_seconds * f64::from(whole_run) / 3600.0,
                percent(forecast.samplers_busy),
                percent(forecast.judges_busy),
                percent(forecast.trainers_busy),
                percent(if forecast.step_seconds > 0.0 {
                    least / forecast.step_seconds
                } else {
                    1.0
                }),
            );
        }
        text += "\n* the configuration's sampling.max_policy_lag. With it, one more worker makes a step take\n";
        for OneMore { role, step_seconds } in &self.one_more {
            text += &format!("  {step_seconds:>8.1}s  with one more {role}\n");
        }
        text
    }
}

fn with_lag(spec: &RunSpec, lag: u32) -> RunSpec {
    let mut spec = spec.clone();
    spec.sampling.max_policy_lag = lag;
    spec
}
