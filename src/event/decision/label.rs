//! The label decisions are counted by: their flag, and the experiment or rule that decided.

use std::borrow::Cow;

use serde::Deserialize;

/// Between flag and experiment; part of no key.
const BETWEEN: char = '\u{1f}';

/// Characters of a key that count.
const KEY_CHARS_MAX: usize = 100;

/// What every stored decision begins with, and no other event.
const START: &[u8] = b"{\"type\":\"decision\",";

#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    decision: Keys<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys<'a> {
    #[serde(borrow, default)]
    flag_key: Cow<'a, str>,
    #[serde(borrow, default)]
    experiment_key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    rule_key: Option<Cow<'a, str>>,
}

/// The label of a stored event; none when it is no decision.
#[must_use]
pub fn label(record: &[u8]) -> Option<String> {
    if !record.starts_with(START) {
        return None;
    }
    let Keys {
        flag_key,
        experiment_key,
        rule_key,
    } = serde_json::from_slice::<Stored<'_>>(record).ok()?.decision;
    let short = |key: &str| -> String {
        let lawful = key.chars().filter(|c| *c != BETWEEN);
        lawful.take(KEY_CHARS_MAX).collect()
    };
    let experiment = experiment_key.or(rule_key).unwrap_or_default();
    Some(format!(
        "{}{BETWEEN}{}",
        short(&flag_key),
        short(&experiment)
    ))
}

/// A label's flag, and its experiment or rule if one decided.
#[must_use]
pub fn of_label(label: &str) -> (&str, Option<&str>) {
    match label.split_once(BETWEEN) {
        Some((flag, "")) => (flag, None),
        Some((flag, experiment)) => (flag, Some(experiment)),
        None => (label, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_counted_by_flag_and_experiment() {
        let read = |text: &str| label(text.as_bytes());
        let one = read(
            r#"{"type":"decision","eventId":"e","userId":"u","decision":{"type":"flag","flagKey":"checkout \"x\"","enabled":true,"ruleKey":"r","experimentKey":"exp"}}"#,
        )
        .unwrap();
        assert_eq!(of_label(&one), ("checkout \"x\"", Some("exp")));
        let none =
            read(r#"{"type":"decision","eventId":"e","decision":{"flagKey":"f","enabled":false}}"#)
                .unwrap();
        assert_eq!(of_label(&none), ("f", None));
        assert_eq!(read(r#"{"type":"track","decision":{"flagKey":"f"}}"#), None);
    }
}
