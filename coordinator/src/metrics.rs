//! The coordinator's metrics: names, units, meanings.

use std::sync::OnceLock;

use gavel_core::ids::RunId;
use gavel_core::run::StepRecord;
use gavel_core::work::Verdict;
use gavel_core::work::{Outcome, Role, Unit};
use metrics::{Unit as Of, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::worker::{Workers, role_name};

/// Units handed out, by role.
const LEASES_GRANTED: &str = "gavel_coordinator_leases_granted_total";
/// Leases that ran out because their worker was silent, by role.
const LEASES_EXPIRED: &str = "gavel_coordinator_leases_expired_total";
/// Results accepted, by role.
const COMPLETIONS: &str = "gavel_coordinator_completions_total";
/// Attempts that a worker reported as failed, by role.
const FAILURES: &str = "gavel_coordinator_failures_total";
/// Requests that the state machine refused, by reason.
const REFUSALS: &str = "gavel_coordinator_refusals_total";
/// How long a worker waited for work, by role.
const LEASE_WAIT_SECONDS: &str = "gavel_coordinator_lease_wait_seconds";
/// From grant to accepted result, by role.
const UNIT_SECONDS: &str = "gavel_coordinator_unit_seconds";
/// Training pairs judged, by verdict.
const PAIRS_JUDGED: &str = "gavel_coordinator_pairs_judged_total";
/// Registered workers, by role.
const WORKERS: &str = "gavel_coordinator_workers";
/// 1 when this coordinator leads, 0 when it stands by.
const LEADS: &str = "gavel_coordinator_leads";
/// One transaction of the ledger.
const LEDGER_APPEND_SECONDS: &str = "gavel_coordinator_ledger_append_seconds";
/// Events written to the ledger.
const LEDGER_EVENTS: &str = "gavel_coordinator_ledger_events_total";
/// Bytes of blobs, by direction.
const BLOB_BYTES: &str = "gavel_coordinator_blob_bytes_total";
/// The latest committed step, by run; those below are of this step.
const STEP: &str = "gavel_coordinator_step";
const STEP_SECONDS: &str = "gavel_coordinator_step_seconds";
const STEP_REWARD_MEAN: &str = "gavel_coordinator_step_reward_mean";
const STEP_DECIDED_FRACTION: &str = "gavel_coordinator_step_decided_ratio";
const STEP_ORDER_CONSISTENCY: &str = "gavel_coordinator_step_order_consistency_ratio";
const STEP_LOSS: &str = "gavel_coordinator_step_loss";
const STEP_KL: &str = "gavel_coordinator_step_kl";
const STEP_CLIP_FRACTION: &str = "gavel_coordinator_step_clip_ratio";
const STEP_RATIO_DEVIATION: &str = "gavel_coordinator_step_ratio_deviation";
const STEP_GRAD_NORM: &str = "gavel_coordinator_step_grad_norm";
const STEP_LEARNING_RATE: &str = "gavel_coordinator_step_learning_rate";

/// Bucket bounds in seconds: from a local ledger write to a unit of a large model.
const SECONDS_BUCKETS: &[f64] = &[0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];

/// The process's Prometheus registry, installed at the first call. `None` when another recorder was installed before, for
/// example by a program that embeds the coordinator.
pub(crate) fn prometheus() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        let builder = PrometheusBuilder::new().set_buckets(SECONDS_BUCKETS).ok()?;
        let handle = builder.install_recorder().ok()?;
        describe();
        Some(handle)
    });
    handle.as_ref()
}

fn describe() {
    describe_counter!(LEASES_GRANTED, Of::Count, "Units handed out.");
    describe_counter!(
        LEASES_EXPIRED,
        Of::Count,
        "Leases that ran out because their worker was silent."
    );
    describe_counter!(COMPLETIONS, Of::Count, "Results accepted.");
    describe_counter!(FAILURES, Of::Count, "Attempts that a worker reported as failed.");
    describe_counter!(REFUSALS, Of::Count, "Reports of workers that were refused.");
    describe_histogram!(
        LEASE_WAIT_SECONDS,
        Of::Seconds,
        "How long a worker waited for a unit that it got."
    );
    describe_histogram!(
        UNIT_SECONDS,
        Of::Seconds,
        "From the grant of a unit to its accepted result."
    );
    describe_counter!(PAIRS_JUDGED, Of::Count, "Training pairs judged.");
    describe_gauge!(WORKERS, Of::Count, "Registered workers.");
    describe_gauge!(
        LEADS,
        "1 when this coordinator leads, 0 when it stands by for another one."
    );
    describe_histogram!(LEDGER_APPEND_SECONDS, Of::Seconds, "One transaction of the ledger.");
    describe_counter!(LEDGER_EVENTS, Of::Count, "Events written to the ledger.");
    describe_counter!(BLOB_BYTES, Of::Bytes, "Bytes of blobs received and sent.");
    describe_gauge!(STEP, Of::Count, "The latest committed step.");
    describe_gauge!(
        STEP_SECONDS,
        Of::Seconds,
        "Seconds of the latest step; `wall` is from commit to commit."
    );
    describe_gauge!(STEP_REWARD_MEAN, "Mean reward of the latest step's decided candidates.");
    describe_gauge!(
        STEP_DECIDED_FRACTION,
        "Share of the latest step's pairs with a preferred candidate."
    );
    describe_gauge!(
        STEP_ORDER_CONSISTENCY,
        "Share of judged pairs whose two image orders agree."
    );
    describe_gauge!(STEP_LOSS, "Mean loss over the latest step's terms.");
    describe_gauge!(STEP_KL, "Mean KL estimate over the latest step's terms.");
    describe_gauge!(
        STEP_CLIP_FRACTION,
        "Share of the latest step's terms whose ratio was clipped."
    );
    describe_gauge!(STEP_RATIO_DEVIATION, "Largest |ratio - 1| of the latest step.");
    describe_gauge!(STEP_GRAD_NORM, "Norm of the latest gradient before clipping.");
    describe_gauge!(STEP_LEARNING_RATE, "Learning rate of the latest update.");
}

pub(crate) fn granted(role: Role, waited_seconds: f64) {
    counter!(LEASES_GRANTED, "role" => role_name(role)).increment(1);
    histogram!(LEASE_WAIT_SECONDS, "role" => role_name(role)).record(waited_seconds);
}

pub(crate) fn expired(role: Role) {
    counter!(LEASES_EXPIRED, "role" => role_name(role)).increment(1);
}

pub(crate) fn failed(role: Role) {
    counter!(FAILURES, "role" => role_name(role)).increment(1);
}

pub(crate) fn refused(reason: &'static str) {
    counter!(REFUSALS, "reason" => reason).increment(1);
}

/// Verdicts on training pairs, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VerdictCounts {
    preferred: u64,
    abstain: u64,
    failed: u64,
}

impl VerdictCounts {
    /// Those in a result; none in one that does not judge training pairs.
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
        counts
    }
}

pub(crate) fn completed(role: Role, verdicts: VerdictCounts, seconds: f64) {
    counter!(COMPLETIONS, "role" => role_name(role)).increment(1);
    histogram!(UNIT_SECONDS, "role" => role_name(role)).record(seconds);
    let kinds = [
        ("preferred", verdicts.preferred),
        ("abstain", verdicts.abstain),
        ("failed", verdicts.failed),
    ];
    for (verdict, count) in kinds.into_iter().filter(|(_, count)| *count > 0) {
        counter!(PAIRS_JUDGED, "verdict" => verdict).increment(count);
    }
}

pub(crate) fn leads(leads: bool) {
    gauge!(LEADS).set(f64::from(u8::from(leads)));
}

pub(crate) fn appended(events: usize, seconds: f64) {
    histogram!(LEDGER_APPEND_SECONDS).record(seconds);
    counter!(LEDGER_EVENTS).increment(events as u64);
}

pub(crate) fn blob_received(bytes: u64) {
    counter!(BLOB_BYTES, "direction" => "received").increment(bytes);
}

pub(crate) fn blob_sent(bytes: u64) {
    counter!(BLOB_BYTES, "direction" => "sent").increment(bytes);
}

/// What is measured now and then: the worker table, and the recorder's own upkeep.
pub(crate) fn tick(workers: &Workers) {
    for role in [Role::Sampler, Role::Judge, Role::Trainer] {
        let count = workers.iter().filter(|worker| worker.role == role).count();
        gauge!(WORKERS, "role" => role_name(role)).set(count as f64);
    }
    if let Some(prometheus) = prometheus() {
        prometheus.run_upkeep();
    }
}

pub(crate) fn step(run: &RunId, record: &StepRecord) {
    let set = |name: &'static str, value: f64| gauge!(name, "run" => run.0.clone()).set(value);
    set(STEP, f64::from(record.step.0));
    set(STEP_REWARD_MEAN, record.reward_mean);
    set(
        STEP_DECIDED_FRACTION,
        f64::from(record.decided) / f64::from(record.pairs.max(1)),
    );
    set(STEP_ORDER_CONSISTENCY, record.order_consistency);
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
        gauge!(STEP_SECONDS, "run" => run.0.clone(), "part" => part).set(value);
    }
}
