//! Values of flag variables: the datafile holds texts, an answer holds values of the variable's type.

use serde_json::{Number, Value};

/// What a variable holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Integer,
    Double,
    Boolean,
    Json,
}

impl Type {
    /// By the datafile's `type` and `subType`.
    pub(super) fn of(name: &str, sub: &str) -> Self {
        match (name, sub) {
            ("json", _) | ("string", "json") => Self::Json,
            ("integer", _) => Self::Integer,
            ("double", _) => Self::Double,
            ("boolean", _) => Self::Boolean,
            _ => Self::Text,
        }
    }

    /// The value a text stands for; null when it stands for none, as in the SDKs.
    pub(super) fn cast(self, text: &str) -> Value {
        match self {
            Self::Text => Value::from(text),
            Self::Integer => integer(text),
            Self::Double => double(text),
            Self::Boolean => match text {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => Value::Null,
            },
            Self::Json => serde_json::from_str(text).unwrap_or_default(),
        }
    }
}

fn integer(text: &str) -> Value {
    match text.trim().parse::<i64>() {
        Ok(number) => Value::from(number),
        // JavaScript reads as far as it goes: "12.5" is 12.
        Err(_) => match double(text).as_f64() {
            Some(number) => whole(number.trunc()).map_or(Value::Null, Value::from),
            None => Value::Null,
        },
    }
}

fn double(text: &str) -> Value {
    let Ok(number) = text.trim().parse::<f64>() else {
        return Value::Null;
    };
    match whole(number) {
        Some(whole) => Value::from(whole),
        None => Number::from_f64(number).map_or(Value::Null, Value::Number),
    }
}

/// A number without a fraction, small enough to be exact.
fn whole(number: f64) -> Option<i64> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "within 2^53 and without a fraction, it is exact"
    )]
    let whole =
        (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64);
    whole
}
