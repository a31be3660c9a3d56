//! The judges that Gavel can ask which of two pictures is better.
//!
//! Each is a [`gavel_rubric::Judge`] and, where it can write, a [`gavel_rubric::Chat`]; [`open`] makes the one that a spec
//! names. A pair is judged in the image orders that it names, as a rule in both: then a candidate is preferred only when both say so.

#![forbid(unsafe_code)]

mod answer;
mod cache;
mod embedding;
mod ensemble;
mod error;
mod explainer;
mod http;
mod in_process;
mod list;
mod loaded;
mod open;
mod openai;
mod question;
mod scores;
mod thoughts;
mod vlm;
mod weighing;
mod writer;

pub use answer::{Answer, Answers, decide};
pub use cache::{VerdictCache, judge_with, keep_given, verdict_key};
pub use embedding::text_encoder_parameters;
pub use error::Error;
pub use explainer::Explainer;
pub use http::http_client;
pub use open::{
    Models, Templates, concurrency, fingerprint, open, open_chat, rubric_writer_concurrency, rubric_writer_fingerprint,
};
pub use openai::Endpoint;
pub use scores::ScoreServer;
pub use vlm::{VlmJudge, check_question};
pub use weighing::WeighingJudge;
pub use writer::VlmWriter;
