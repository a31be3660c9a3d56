//! The names of a struct's fields, asked of its own `Deserialize`, so that no second list can fall behind.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

/// The keys that a derived `deserialize` accepts, in declaration order.
pub(super) fn of<T>(deserialize: impl FnOnce(Probe<'_>) -> Result<T, Answered>) -> Vec<&'static str> {
    let mut names: &'static [&'static str] = &[];
    // The probe ends by design with an error; the names are in `names` by then.
    let _ = deserialize(Probe(&mut names));
    names.to_vec()
}

/// The name that is most like `name`, if one is alike at all.
pub(super) fn nearest(name: &str, names: &[&str]) -> Option<String> {
    names
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate))
        .filter(|(likeness, _)| *likeness >= 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.to_owned())
}

/// A deserializer that asks for the names of the fields and gives nothing.
pub(super) struct Probe<'a>(&'a mut &'static [&'static str]);

/// How every [`Probe`] ends.
#[derive(Debug)]
pub(super) struct Answered;

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only field names were asked for")
    }
}

impl std::error::Error for Answered {}

impl de::Error for Answered {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Answered;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Answered> {
        *self.0 = fields;
        Err(Answered)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Answered> {
        Err(Answered)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
