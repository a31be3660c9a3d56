//! What a server takes of the parameters that Gavel would like to send.
//!
//! Servers that call themselves compatible differ in them. One that refuses a parameter is asked without it, or with another
//! that means the same, as its answer says; and so from then on.

use serde_json::{Value, json};

use super::words::Body;

/// What a request asks for, beside model and messages.
#[derive(Debug, Clone, Default)]
pub(super) struct Wishes {
    /// Most tokens of the answer.
    pub(super) limit: Option<u32>,
    pub(super) temperature: Option<f64>,
    pub(super) seed: Option<u64>,
    /// How likely the answer's tokens are.
    pub(super) likelihoods: bool,
    /// A JSON Schema that the answer has to fit.
    pub(super) schema: Option<Value>,
    /// Embeddings as numbers.
    pub(super) numbers: bool,
}

/// A wish that a server may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parameter {
    Format,
    Likelihoods,
    Limit,
    Temperature,
    Seed,
    Numbers,
}

impl Parameter {
    const ALL: [Self; 6] = [
        Self::Format,
        Self::Likelihoods,
        Self::Limit,
        Self::Temperature,
        Self::Seed,
        Self::Numbers,
    ];

    /// The names by which a server may mean it.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Format => &["response_format", "json_schema", "json_object"],
            Self::Likelihoods => &["logprobs", "top_logprobs"],
            Self::Limit => &["max_tokens", "max_completion_tokens"],
            Self::Temperature => &["temperature"],
            Self::Seed => &["seed"],
            Self::Numbers => &["encoding_format"],
        }
    }

    /// How often it may be refused until it is not sent any more.
    fn ways(self) -> u8 {
        match self {
            Self::Format | Self::Likelihoods | Self::Limit => 2,
            Self::Temperature | Self::Seed | Self::Numbers => 1,
        }
    }

    /// Those that a server's objection names, the likeliest culprit first.
    pub(super) fn named_in(body: &Body) -> Vec<Self> {
        let culprit = match body {
            Body::Json(value) => value["error"]["param"].as_str().unwrap_or_default(),
            Body::Text(_) => "",
        };
        let text = body.text();
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let mut named = Vec::new();
        for word in std::iter::once(culprit).chain(words) {
            if let Some(parameter) = Self::ALL
                .into_iter()
                .find(|parameter| parameter.names().contains(&word))
                && !named.contains(&parameter)
            {
                named.push(parameter);
            }
        }
        named
    }

    fn is_wished(self, wishes: &Wishes) -> bool {
        match self {
            Self::Format => wishes.schema.is_some(),
            Self::Likelihoods => wishes.likelihoods,
            Self::Limit => wishes.limit.is_some(),
            Self::Temperature => wishes.temperature.is_some(),
            Self::Seed => wishes.seed.is_some(),
            Self::Numbers => wishes.numbers,
        }
    }
}

/// For each parameter how often it was refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dialect([u8; Parameter::ALL.len()]);

impl Dialect {
    /// `body` with the wishes in the words of this dialect.
    pub(super) fn write(&self, body: &Value, wishes: &Wishes) -> Value {
        let mut request = body.clone();
        let mut set = |key: &str, value: Value| request[key] = value;
        match (&wishes.schema, self.refusals(Parameter::Format)) {
            (Some(schema), 0) => set(
                "response_format",
                json!({
                    "type": "json_schema",
                    "json_schema": { "name": "answer", "strict": true, "schema": schema },
                }),
            ),
            (Some(_), 1) => set("response_format", json!({ "type": "json_object" })),
            _ => {}
        }
        if wishes.likelihoods
            && let Some(count) = [20, 5].get(usize::from(self.refusals(Parameter::Likelihoods)))
        {
            set("logprobs", true.into());
            set("top_logprobs", (*count).into());
        }
        let name = ["max_tokens", "max_completion_tokens"].get(usize::from(self.refusals(Parameter::Limit)));
        if let (Some(limit), Some(name)) = (wishes.limit, name) {
            set(name, limit.into());
        }
        if let (Some(temperature), 0) = (wishes.temperature, self.refusals(Parameter::Temperature)) {
            set("temperature", temperature.into());
        }
        if let (Some(seed), 0) = (wishes.seed, self.refusals(Parameter::Seed)) {
            set("seed", seed.into());
        }
        if wishes.numbers && self.refusals(Parameter::Numbers) == 0 {
            set("encoding_format", "float".into());
        }
        request
    }

    /// The dialect that is left after an objection to these parameters; `None` where the objection must be to something else.
    /// An objection that names none is to what most servers lack.
    pub(super) fn without(mut self, named: &[Parameter], wishes: &Wishes) -> Option<Self> {
        let usual = [Parameter::Format, Parameter::Likelihoods];
        let suspects = if named.is_empty() { &usual[..] } else { named };
        let sent =
            |parameter: &&Parameter| parameter.is_wished(wishes) && self.refusals(**parameter) < parameter.ways();
        let culprit = suspects.iter().find(sent)?;
        self.0[*culprit as usize] += 1;
        Some(self)
    }

    /// Takes over what another request has found out; returns the parameters that are sent in another way from now on.
    pub(super) fn learn(&mut self, other: &Self) -> Vec<Parameter> {
        let learned = Parameter::ALL.into_iter().filter(|parameter| {
            let (own, others) = (self.0[*parameter as usize], other.0[*parameter as usize]);
            others > own
        });
        let learned: Vec<Parameter> = learned.collect();
        for parameter in &learned {
            self.0[*parameter as usize] = other.0[*parameter as usize];
        }
        learned
    }

    fn refusals(&self, parameter: Parameter) -> u8 {
        self.0[parameter as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::Secrets;
    use super::*;

    fn named(body: &str) -> Vec<Parameter> {
        Parameter::named_in(&Secrets::default().read(body.as_bytes()))
    }

    #[test]
    fn an_objection_names_its_parameter() {
        for (body, expected) in [
            (
                r#"{"error": {"message": "use 'max_completion_tokens' instead", "param": "max_tokens"}}"#,
                vec![Parameter::Limit],
            ),
            (
                r#"{"error": {"message": "seed and temperature", "param": "temperature"}}"#,
                vec![Parameter::Temperature, Parameter::Seed],
            ),
            (
                r#"{"detail": [{"loc": ["body", "top_logprobs"]}]}"#,
                vec![Parameter::Likelihoods],
            ),
            ("this model has no seedling", vec![]),
            ("unknown field `seed`", vec![Parameter::Seed]),
        ] {
            assert_eq!(named(body), expected, "{body}");
        }
    }

    #[test]
    fn what_is_refused_is_sent_in_another_way_and_then_not_at_all() {
        let wishes = Wishes {
            limit: Some(8),
            temperature: Some(0.0),
            seed: Some(1),
            likelihoods: true,
            schema: Some(json!({})),
            numbers: true,
        };
        let mut dialect = Dialect::default();
        let mut written = vec![dialect.write(&json!({}), &wishes)];
        for parameter in Parameter::ALL {
            while let Some(next) = dialect.without(&[parameter], &wishes) {
                dialect = next;
                written.push(dialect.write(&json!({}), &wishes));
            }
        }
        assert_eq!(written[1]["response_format"]["type"], "json_object");
        assert_eq!(written[3]["top_logprobs"], 5);
        assert_eq!(written[5]["max_completion_tokens"], 8);
        assert!(written[5].get("max_tokens").is_none());
        assert_eq!(written.last(), Some(&json!({})), "{written:?}");
    }

    #[test]
    fn what_was_not_sent_cannot_be_refused() {
        let wishes = Wishes {
            temperature: Some(0.0),
            ..Wishes::default()
        };
        assert_eq!(Dialect::default().without(&[Parameter::Seed], &wishes), None);
        assert_eq!(Dialect::default().without(&[], &wishes), None);
        let without = Dialect::default().without(&[Parameter::Seed, Parameter::Temperature], &wishes);
        let mut known = Dialect::default();
        assert_eq!(known.learn(&without.unwrap()), [Parameter::Temperature]);
        assert_eq!(known.learn(&Dialect::default()), []);
        assert_eq!(Some(known), without);
    }
}
