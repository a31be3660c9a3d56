//! What the coordinator measures, and when. `gavel-telemetry` holds the names, units and meanings.

use std::sync::OnceLock;

use gavel_core::ids::RunId;
use gavel_core::run::{Phase, Run, StepRecord};
use gavel_core::work::{Outcome, PictureAnswer, Role, Spent, Unit, Verdict};
use gavel_telemetry::metric::coordinator::{
    BLOB_BYTES, BLOB_DIRECT_BYTES, BLOB_SHARED_BYTES, BUILD_INFO, COMPLETIONS, FAILURES, JUDGE_COST, JUDGE_REQUESTS,
    JUDGE_TOKENS, LEADS, LEASE_WAIT_SECONDS, LEASES_EXPIRED, LEASES_GRANTED, LEDGER_APPEND_SECONDS, LEDGER_EVENTS,
    PAIRS_JUDGED, QUESTIONS_ANSWERED, REFUSALS, RUN_PHASE, STEP, STEP_ASKED_ONCE, STEP_CLIP_FRACTION,
    STEP_DECIDED_FRACTION, STEP_DIVERSITY, STEP_GRAD_NORM, STEP_HELD_OUT_AGREEMENT, STEP_KL, STEP_LEARNING_RATE,
    STEP_LOSS, STEP_ORDER_CONSISTENCY, STEP_RATIO_DEVIATION, STEP_REWARD_MEAN, STEP_SCORE, STEP_SECONDS,
    STEP_TOO_ALIKE, UNIT_SECONDS, UNITS, WIN_RATE, WORKER_MEMORY_BYTES, WORKERS,
};
use gavel_telemetry::metric::{self, Metric};
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::worker::Workers;

/// Bucket bounds in seconds: from a local ledger write to a unit of a large model.
const SECONDS_BUCKETS: &[f64] = &[0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];

/// The process's Prometheus registry, installed at the first call. `None` when another recorder was installed before, for
/// example by a program that embeds the coordinator.
pub(crate) fn prometheus() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        let builder = PrometheusBuilder::new().set_buckets(SECONDS_BUCKETS).ok()?;
        let handle = builder.install_recorder().ok()?;
        metric::describe(metric::coordinator::ALL);
        gauge!(BUILD_INFO.name, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Some(handle)
    });
    handle.as_ref()
}

pub(crate) fn granted(role: Role, waited_seconds: f64) {
    counter!(LEASES_GRANTED.name, "role" => role.name()).increment(1);
    histogram!(LEASE_WAIT_SECONDS.name, "role" => role.name()).record(waited_seconds);
}

pub(crate) fn expired(role: Role) {
    counter!(LEASES_EXPIRED.name, "role" => role.name()).increment(1);
}

pub(crate) fn failed(role: Role) {
    counter!(FAILURES.name, "role" => role.name()).increment(1);
}

pub(crate) fn refused(reason: &'static str) {
    counter!(REFUSALS.name, "reason" => reason).increment(1);
}

/// Verdicts on training pairs and answers to questions about pictures, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct JudgedCounts {
    preferred: u64,
    abstain: u64,
    failed: u64,
    yes: u64,
    no: u64,
    neither: u64,
    unanswered: u64,
}

impl JudgedCounts {
    /// Those in a result; none in one that neither judges training pairs nor answers questions.
    pub(crate) fn of(unit: &Unit, outcome: &Outcome) -> Self {
        let mut counts = Self::default();
        if let (Unit::Judge { .. }, Outcome::Judged { verdicts, .. }) = (unit, outcome) {
            for record in verdicts {
                match record.verdict {
                    Verdict::Preferred { .. } => counts.preferred += 1,
                    Verdict::Abstain { .. } => counts.abstain += 1,
                    Verdict::Failed { .. } => counts.failed += 1,
                }
            }
        }
        if let Outcome::QuestionsAnswered { answers, .. } = outcome {
            for answer in answers {
                match answer {
                    PictureAnswer::Yes => counts.yes += 1,
                    PictureAnswer::No => counts.no += 1,
                    PictureAnswer::Neither => counts.neither += 1,
                    PictureAnswer::Unanswered { .. } => counts.unanswered += 1,
                }
            }
        }
        counts
    }
}

pub(crate) fn completed(role: Role, judged: JudgedCounts, seconds: f64) {
    counter!(COMPLETIONS.name, "role" => role.name()).increment(1);
    histogram!(UNIT_SECONDS.name, "role" => role.name()).record(seconds);
    let kinds = [
        ("preferred", judged.preferred),
        ("abstain", judged.abstain),
        ("failed", judged.failed),
    ];
    for (verdict, count) in kinds.into_iter().filter(|(_, count)| *count > 0) {
        counter!(PAIRS_JUDGED.name, "verdict" => verdict).increment(count);
    }
    let kinds = [
        ("yes", judged.yes),
        ("no", judged.no),
        ("neither", judged.neither),
        ("unanswered", judged.unanswered),
    ];
    for (answer, count) in kinds.into_iter().filter(|(_, count)| *count > 0) {
        counter!(QUESTIONS_ANSWERED.name, "answer" => answer).increment(count);
    }
}

pub(crate) fn leads(leads: bool) {
    gauge!(LEADS.name).set(f64::from(u8::from(leads)));
}

pub(crate) fn appended(events: usize, seconds: f64) {
    histogram!(LEDGER_APPEND_SECONDS.name).record(seconds);
    counter!(LEDGER_EVENTS.name).increment(events as u64);
}

pub(crate) fn blob_received(bytes: u64) {
    counter!(BLOB_BYTES.name, "direction" => "received").increment(bytes);
}

/// Somebody was sent to the store for a blob, or has written it there.
pub(crate) fn blob_directed(direction: &'static str, bytes: u64) {
    counter!(BLOB_DIRECT_BYTES.name, "direction" => direction).increment(bytes);
}

/// A worker was sent to another one for a blob.
pub(crate) fn blob_shared(bytes: u64) {
    counter!(BLOB_SHARED_BYTES.name).increment(bytes);
}

pub(crate) fn blob_sent(bytes: u64) {
    counter!(BLOB_BYTES.name, "direction" => "sent").increment(bytes);
}

/// What is measured now and then: the worker table, and the recorder's own upkeep.
pub(crate) fn tick(workers: &Workers) {
    for role in [Role::Sampler, Role::Judge, Role::Trainer] {
        let count = workers.iter().filter(|worker| worker.role == role).count();
        gauge!(WORKERS.name, "role" => role.name()).set(count as f64);
        for (state, bytes) in workers.memory(role) {
            gauge!(WORKER_MEMORY_BYTES.name, "role" => role.name(), "state" => state).set(bytes as f64);
        }
    }
    if let Some(prometheus) = prometheus() {
        prometheus.run_upkeep();
    }
}

/// What is measured when somebody looks: how much of each run waits and is in work, where it stands, and how it does.
pub(crate) fn runs<'a>(runs: impl Iterator<Item = &'a Run>) {
    for run in runs {
        let name = || run.id().0.clone();
        for role in [Role::Sampler, Role::Judge, Role::Trainer] {
            for (state, count) in [("ready", run.ready_count(role)), ("leased", run.leased_count(role))] {
                gauge!(UNITS.name, "run" => name(), "role" => role.name(), "state" => state).set(count as f64);
            }
        }
        let present = run.phase();
        for phase in Phase::NAMES {
            let is_present = f64::from(u8::from(phase == present.name()));
            gauge!(RUN_PHASE.name, "run" => name(), "phase" => phase).set(is_present);
        }
        if let Some(rate) = run.win_rate() {
            gauge!(WIN_RATE.name, "run" => name()).set(rate.value);
        }
        spent(run.id(), &run.spent());
        if let Some(step) = run.results().steps.last() {
            // A coordinator that has just started has seen no commit yet.
            self::step(run.id(), &step.record);
        }
    }
}

fn spent(run: &RunId, spent: &Spent) {
    if spent.is_nothing() {
        return;
    }
    let name = || run.0.clone();
    let answered = spent.requests.saturating_sub(spent.failures);
    for (result, count) in [("answered", answered), ("failed", spent.failures)] {
        gauge!(JUDGE_REQUESTS.name, "run" => name(), "result" => result).set(count as f64);
    }
    let tokens = [
        ("prompt", spent.usage.prompt_tokens),
        ("completion", spent.usage.completion_tokens),
    ];
    for (kind, count) in tokens {
        gauge!(JUDGE_TOKENS.name, "run" => name(), "kind" => kind).set(count as f64);
    }
    if let Some(cost) = spent.cost {
        gauge!(JUDGE_COST.name, "run" => name()).set(cost);
    }
}

pub(crate) fn step(run: &RunId, record: &StepRecord) {
    let set = |metric: Metric, value: f64| gauge!(metric.name, "run" => run.0.clone()).set(value);
    set(STEP, f64::from(record.step.0));
    set(STEP_REWARD_MEAN, record.reward_mean);
    set(
        STEP_DECIDED_FRACTION,
        f64::from(record.decided) / f64::from(record.pairs.max(1)),
    );
    set(STEP_ORDER_CONSISTENCY, record.order_consistency);
    if let Some(asked) = &record.asked {
        set(STEP_ASKED_ONCE, asked.share_once().unwrap_or(0.0));
        set(STEP_TOO_ALIKE, asked.share_too_alike().unwrap_or(0.0));
    }
    if let Some(diversity) = record.diversity {
        set(STEP_DIVERSITY, diversity);
    }
    if let Some(agreement) = record.held_out_agreement {
        set(STEP_HELD_OUT_AGREEMENT, agreement);
    }
    for (judge, score) in [("judge", record.score), ("held_out", record.held_out_score)] {
        if let Some(score) = score {
            gauge!(STEP_SCORE.name, "run" => run.0.clone(), "judge" => judge).set(score);
        }
    }
    set(STEP_LOSS, record.loss);
    set(STEP_KL, record.kl);
    set(STEP_CLIP_FRACTION, record.clip_fraction);
    set(STEP_RATIO_DEVIATION, record.ratio_deviation);
    set(STEP_GRAD_NORM, record.grad_norm);
    set(STEP_LEARNING_RATE, record.learning_rate);
    let seconds = &record.seconds;
    let parts = [
        ("sample", seconds.sample),
        ("judge", seconds.judge),
        ("train", seconds.train),
        ("commit", seconds.commit),
        ("wall", seconds.wall),
    ];
    for (part, value) in parts {
        gauge!(STEP_SECONDS.name, "run" => run.0.clone(), "part" => part).set(value);
    }
}
