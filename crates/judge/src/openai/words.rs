//! What a server sends, before anything else looks at it.

use gavel_rubric::ServerWords;
use serde_json::Value;

/// A key that is shorter is a placeholder, as servers without keys want one, and may be any word of an answer.
const SECRET_BYTES_MIN: usize = 8;
/// What stands for a secret.
const HIDDEN: &str = "[key]";
/// Most letters of a server's words.
const LETTERS_MAX: usize = 300;

/// What a client knows and nobody else is to read. All that a server sends passes through here: servers repeat keys in their
/// errors, and what is never let in cannot get out.
#[derive(Default)]
pub(super) struct Secrets(Option<String>);

/// What a server has sent, without the client's secrets.
pub(crate) enum Body {
    Json(Value),
    Text(String),
}

impl Secrets {
    pub(super) fn new(key: Option<&str>) -> Self {
        Self(key.filter(|key| key.len() >= SECRET_BYTES_MIN).map(str::to_owned))
    }

    /// The only way from a server's bytes to anything else.
    pub(super) fn read(&self, bytes: &[u8]) -> Body {
        match serde_json::from_slice(bytes) {
            Ok(mut value) => {
                self.hide_in(&mut value);
                Body::Json(value)
            }
            Err(_) => Body::Text(self.hide(&String::from_utf8_lossy(bytes))),
        }
    }

    /// A foreign text, fit to be told.
    pub(super) fn words(&self, text: &str) -> ServerWords {
        told(&self.hide(text))
    }

    fn hide(&self, text: &str) -> String {
        match &self.0 {
            Some(secret) => text.replace(secret.as_str(), HIDDEN),
            None => text.to_owned(),
        }
    }

    fn hide_in(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.hide(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.hide_in(value)),
            Value::Object(fields) => {
                for (key, mut value) in std::mem::take(fields) {
                    self.hide_in(&mut value);
                    fields.insert(self.hide(&key), value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

impl Body {
    /// What the server says is wrong: OpenAI's `error.message`, FastAPI's `detail`, or the first words of whatever it sent.
    pub(crate) fn words(&self) -> ServerWords {
        match self {
            Self::Text(text) => told(text),
            Self::Json(value) => {
                let places = [
                    &value["error"]["message"],
                    &value["message"],
                    &value["error"],
                    &value["detail"],
                ];
                let said = places.into_iter().find(|place| !place.is_null()).unwrap_or(value);
                told(&said.as_str().map_or_else(|| said.to_string(), str::to_owned))
            }
        }
    }

    /// The whole, for a look at the words in it.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Json(value) => value.to_string(),
        }
    }
}

/// Cut short, and without what a terminal would take for a command.
fn told(text: &str) -> ServerWords {
    let plain = text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter });
    let mut words: String = plain.clone().take(LETTERS_MAX).collect();
    if plain.count() > LETTERS_MAX {
        words.push_str("...");
    }
    ServerWords::new(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gets_out_in_no_form_that_a_server_may_give_it() {
        let secrets = Secrets::new(Some("sk-secret"));
        for body in [
            "no such key: sk-secret",
            r#"{"error": {"message": "no such key: sk-secret"}}"#,
            r#"{"detail": [{"sk-secret": "\u0073k-secret"}]}"#,
            r#"{"choices": [{"message": {"content": "sk-secret"}}]}"#,
        ] {
            let body = secrets.read(body.as_bytes());
            for told in [body.words().to_string(), body.text()] {
                assert!(told.contains(HIDDEN) && !told.contains("sk-secret"), "{told}");
            }
        }
        assert_eq!(secrets.words("at sk-secret").to_string(), "at [key]");
        // Cutting comes after hiding, so that no half of a key is left.
        let long = format!("{}sk-secret", "x".repeat(LETTERS_MAX - 4));
        assert!(!secrets.words(&long).to_string().contains("sk"), "{long}");
    }

    #[test]
    fn a_placeholder_may_stand_in_an_answer() {
        let body = Secrets::new(Some("1")).read(br#"{"content": "1"}"#);
        assert_eq!(body.text(), r#"{"content":"1"}"#);
    }

    #[test]
    fn words_are_short_and_plain() {
        let body = Secrets::default().read("\u{1b}[2Jgone\n".repeat(100).as_bytes());
        let told = body.words().to_string();
        assert!(
            told.chars().count() == LETTERS_MAX + 3 && !told.contains(char::is_control),
            "{told}"
        );
    }
}
