//! The arithmetic of RPO: sigma schedule, stochastic and plain sampling steps, log-probabilities, the clipped loss.
//!
//! Everything works on slices, so that sampler and trainer share it whatever computes the network. Values are stored as f32;
//! sums run in f64 from the first element to the last, so that a result does not depend on threads or on the machine.

pub mod adamw;
mod learning_rate;
mod loss;
mod ranking;
mod sampler;

pub use learning_rate::learning_rate;
pub use loss::{Kl, Term, TermInput, TermSlopes, TermSums, term};
pub use ranking::{match_count, matches, ranks, rewards};
pub use sampler::{Sde, StepCoefficients, coefficients, log_prob, ode_step, predicted_original, sde_step, sigmas};
