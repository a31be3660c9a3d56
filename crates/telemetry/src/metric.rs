//! What is measured: names, units and meanings. A name is `gavel_<part>_<what>_<unit>`, as Prometheus wants it.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Something that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name, as it is scraped.
    pub name: &'static str,
    /// How it changes.
    pub kind: Kind,
    /// What one of it is.
    pub unit: Unit,
    /// What it says, for people.
    pub help: &'static str,
}

/// How a metric changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It rises and falls.
    Gauge,
    /// It counts observations by their size.
    Histogram,
}

impl Metric {
    const fn counter(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Counter,
            unit,
            help,
        }
    }

    const fn gauge(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Gauge,
            unit,
            help,
        }
    }

    const fn histogram(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Histogram,
            unit,
            help,
        }
    }
}

/// Tells the recorder that is installed what each of these metrics means.
pub fn describe(all: &[Metric]) {
    for Metric { name, kind, unit, help } in all.iter().copied() {
        match kind {
            Kind::Counter => describe_counter!(name, unit, help),
            Kind::Gauge => describe_gauge!(name, unit, help),
            Kind::Histogram => describe_histogram!(name, unit, help),
        }
    }
}

/// The coordinator's metrics.
pub mod coordinator {
    use metrics::Unit;

    use super::Metric;

    macro_rules! list {
        ($($constant:ident = $kind:ident($name:literal, $unit:ident, $help:literal);)*) => {
            $(
                #[doc = $help]
                pub const $constant: Metric = Metric::$kind(concat!("gavel_coordinator_", $name), Unit::$unit, $help);
            )*

            /// All of them.
            pub const ALL: &[Metric] = &[$($constant),*];
        };
    }

    list! {
        LEASES_GRANTED = counter("leases_granted_total", Count, "Units handed out.");
        LEASES_EXPIRED = counter("leases_expired_total", Count, "Leases that ran out because their worker was silent.");
        COMPLETIONS = counter("completions_total", Count, "Results accepted.");
        FAILURES = counter("failures_total", Count, "Attempts that a worker reported as failed.");
        REFUSALS = counter("refusals_total", Count, "Reports of workers that were refused.");
        LEASE_WAIT_SECONDS = histogram("lease_wait_seconds", Seconds, "How long a worker waited for a unit that it got.");
        UNIT_SECONDS = histogram("unit_seconds", Seconds, "From the grant of a unit to its accepted result.");
        PAIRS_JUDGED = counter("pairs_judged_total", Count, "Training pairs judged.");
        QUESTIONS_ANSWERED = counter("questions_answered_total", Count, "Questions about single pictures, by `answer`.");
        WORKERS = gauge("workers", Count, "Registered workers.");
        LEADS = gauge("leads", Count, "1 when this coordinator leads, 0 when it stands by for another one.");
        LEDGER_APPEND_SECONDS = histogram("ledger_append_seconds", Seconds, "One transaction of the ledger.");
        LEDGER_EVENTS = counter("ledger_events_total", Count, "Events written to the ledger.");
        BLOB_BYTES = counter("blob_bytes_total", Bytes, "Bytes of blobs received and sent.");
        BLOB_DIRECT_BYTES = counter("blob_direct_bytes_total", Bytes, "Bytes of blobs that somebody was sent to the store to read (`read`), or has written there (`written`), by `direction`.");
        BLOB_SHARED_BYTES = counter("blob_shared_bytes_total", Bytes, "Bytes of blobs for which workers were sent to other workers.");
        UNITS = gauge("units", Count, "Units of a run that can be leased (`ready`) and that are (`leased`), by role.");
        RUN_PHASE = gauge("run_phase", Count, "1 for the phase in which a run is, 0 for the others.");
        WIN_RATE = gauge("win_rate_ratio", Count, "Tuned over base on held-out prompts, as far as the judge has compared them.");
        JUDGE_REQUESTS = gauge("judge_requests", Count, "Requests that a run's judges have sent to servers, by `result`.");
        JUDGE_TOKENS = gauge("judge_tokens", Count, "Tokens that a run's judges have had servers read (`prompt`) and write (`completion`).");
        JUDGE_COST = gauge("judge_cost", Count, "What these cost, in the currency of `judge.prompt_price`, where the run names prices.");
        WORKER_MEMORY_BYTES = gauge("worker_memory_bytes", Bytes, "Memory of what the workers compute on, by role, `used` and `total`: of a GPU, or of the process and its machine.");
        BUILD_INFO = gauge("build_info", Count, "1, with the version of this coordinator.");
        STEP = gauge("step", Count, "The latest committed step.");
        STEP_SECONDS = gauge("step_seconds", Seconds, "Seconds of the latest step; `wall` is from commit to commit.");
        STEP_REWARD_MEAN = gauge("step_reward_mean", Count, "Mean reward of the latest step's decided candidates.");
        STEP_DECIDED_FRACTION = gauge("step_decided_ratio", Count, "Share of the latest step's pairs with a preferred candidate.");
        STEP_ORDER_CONSISTENCY = gauge("step_order_consistency_ratio", Count, "Share of pairs judged in both image orders whose orders agree.");
        STEP_ASKED_ONCE = gauge("step_asked_once_ratio", Count, "Share of the latest step's asked pairs that were asked in one image order, in runs that may do so.");
        STEP_TOO_ALIKE = gauge("step_too_alike_ratio", Count, "Share of the latest step's pairs that the judge was not asked about because their pictures are too alike.");
        STEP_DIVERSITY = gauge("step_diversity", Count, "Mean absolute difference of the RGB values of one prompt's pictures, in 0 to 1.");
        STEP_HELD_OUT_AGREEMENT = gauge("step_held_out_agreement_ratio", Count, "Share of the latest step's pairs on which the held-out judge prefers what the judge prefers.");
        STEP_SCORE = gauge("step_score", Count, "Mean score of the latest step's pictures, of judges that score them: the one that rewards (`judge`) and the held-out one (`held_out`).");
        STEP_LOSS = gauge("step_loss", Count, "Mean loss over the latest step's terms.");
        STEP_KL = gauge("step_kl", Count, "Mean KL estimate over the latest step's terms.");
        STEP_CLIP_FRACTION = gauge("step_clip_ratio", Count, "Share of the latest step's terms whose ratio was clipped.");
        STEP_RATIO_DEVIATION = gauge("step_ratio_deviation", Count, "Largest |ratio - 1| of the latest step.");
        STEP_GRAD_NORM = gauge("step_grad_norm", Count, "Norm of the latest gradient before clipping.");
        STEP_LEARNING_RATE = gauge("step_learning_rate", Count, "Learning rate of the latest update.");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_is_named_as_prometheus_wants_it_and_says_what_it_means() {
        let mut names = BTreeSet::new();
        for metric in coordinator::ALL {
            let Metric { name, kind, unit, help } = *metric;
            assert!(names.insert(name), "{name} is listed twice");
            assert!(name.starts_with("gavel_coordinator_"), "{name}");
            assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert_eq!(unit == Unit::Seconds, name.ends_with("_seconds"), "{name}");
            assert_eq!(unit == Unit::Bytes, name.contains("_bytes"), "{name}");
            assert!(help.ends_with('.'), "{name}: {help}");
        }
    }
}
