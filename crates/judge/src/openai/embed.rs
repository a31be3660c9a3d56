//! Vectors by a server's model.

use gavel_core::ids::Digest;
use gavel_rubric::AskError;
use gavel_rubric::generate::Embed;
use serde_json::{Value, json};

use super::Endpoint;
use super::dialect::Wishes;

/// Texts in one request; a set of criteria takes a few requests, and no server refuses so few.
const TEXTS: usize = 64;

impl Embed for Endpoint {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Option<Digest> {
        Some(self.identity)
    }

    /// Asks the server's /v1/embeddings.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f64>>, AskError> {
        let unusable = |reason: String| AskError::Unanswerable {
            reason: format!("{}: {reason}", self.base),
            hint: Some("name a model that embeds texts".into()),
            said: None,
        };
        let mut vectors: Vec<Option<Vec<f64>>> = vec![None; texts.len()];
        for (places, texts) in (0..texts.len()).step_by(TEXTS).zip(texts.chunks(TEXTS)) {
            let request = json!({ "model": self.model, "input": texts });
            let wishes = Wishes {
                numbers: true,
                ..Wishes::default()
            };
            let answer = self.accepted(&request, &wishes, |request| self.client.embeddings(request));
            let answer = answer.map_err(|failure| failure.into_error(&self.base))?;
            for (place, entry) in answer["data"].as_array().into_iter().flatten().enumerate() {
                let index = entry["index"].as_u64().map_or(place, |index| index as usize);
                if index < texts.len() {
                    vectors[places + index] = direction(&entry["embedding"]);
                }
            }
        }
        let count = texts.len();
        let vectors: Vec<Vec<f64>> = vectors
            .into_iter()
            .collect::<Option<_>>()
            .ok_or_else(|| unusable(format!("the answer does not hold a vector for each of {count} texts")))?;
        match vectors.windows(2).find(|two| two[0].len() != two[1].len()) {
            Some(two) => Err(unusable(format!(
                "vectors of {} and of {} entries",
                two[0].len(),
                two[1].len()
            ))),
            None => Ok(vectors),
        }
    }
}

/// The numbers, scaled to length 1; `None` where they are none, not finite, or all 0.
fn direction(value: &Value) -> Option<Vec<f64>> {
    let numbers: Vec<f64> = value.as_array()?.iter().map(Value::as_f64).collect::<Option<_>>()?;
    let length = numbers.iter().map(|number| number * number).sum::<f64>().sqrt();
    let scaled = numbers.into_iter().map(|number| number / length).collect();
    (length > 0.0 && length.is_finite()).then_some(scaled)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::routing::post;
    use axum::{Json, Router};
    use gavel_core::spec::ServerSpec;
    use tokio::net::TcpListener;
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    /// Serves `answer` under /v1/embeddings for as long as the runtime lives.
    fn serve(answer: impl Fn(Value) -> Value + Clone + Send + Sync + 'static) -> (Runtime, Endpoint) {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let handler = move |Json(request): Json<Value>| {
            let body = answer(request);
            async move { Json(body) }
        };
        let router = Router::new().route("/v1/embeddings", post(handler));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, router).await });
        let spec = ServerSpec {
            endpoint: format!("http://{address}/v1"),
            model: "embedder".into(),
            ..ServerSpec::default()
        };
        (runtime, Endpoint::new(&spec).unwrap())
    }

    /// Of each text the number of letters and 1.
    fn honest(request: &Value) -> Vec<Value> {
        let texts = request["input"].as_array().unwrap().iter();
        texts
            .enumerate()
            .map(|(index, text)| json!({ "index": index, "embedding": [text.as_str().unwrap().len(), 1] }))
            .collect()
    }

    #[test]
    fn vectors_come_in_the_order_of_the_texts_and_have_length_one() {
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let (_runtime, endpoint) = serve(move |request| {
            counted.fetch_add(1, Ordering::SeqCst);
            assert_eq!(request["model"], "embedder");
            let mut data = honest(&request);
            data.reverse();
            json!({ "data": data })
        });
        let texts: Vec<String> = (0..=TEXTS).map(|count| "x".repeat(count)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let vectors = endpoint.embed(&texts).unwrap();
        assert_eq!(requests.load(Ordering::SeqCst), 2);
        for (count, vector) in vectors.iter().enumerate() {
            let length = (count as f64).hypot(1.0);
            assert!((vector[0] - count as f64 / length).abs() < 1e-12, "{count}: {vector:?}");
            assert!((vector[1] - 1.0 / length).abs() < 1e-12, "{count}: {vector:?}");
        }
    }

    #[test]
    fn answers_without_a_vector_for_each_text_are_refused() {
        let problem = |spoil: fn(&mut Vec<Value>)| {
            let (_runtime, endpoint) = serve(move |request| {
                let mut data = honest(&request);
                spoil(&mut data);
                json!({ "data": data })
            });
            endpoint.embed(&["a", "b"]).unwrap_err().to_string()
        };
        let missing = "does not hold a vector for each of 2 texts";
        for spoil in [
            (|data| drop(data.pop())) as fn(&mut Vec<Value>),
            |data| data[0]["embedding"] = json!("AACAPw=="),
            |data| data[1]["embedding"] = json!([0, 0]),
        ] {
            let problem = problem(spoil);
            assert!(problem.contains(missing), "{problem}");
        }
        let problem = problem(|data| data[1]["embedding"] = json!([1, 2, 3]));
        assert!(problem.ends_with("vectors of 2 and of 3 entries"), "{problem}");
    }
}
