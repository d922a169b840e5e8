//! The label decisions are counted by: their flag, and the experiment or rule that decided.

use crate::event::scan::{Scanner, Text};

/// Between flag and experiment; part of no key.
const BETWEEN: char = '\u{1f}';

/// Characters of a key that count.
const KEY_CHARS_MAX: usize = 100;

/// What every stored decision begins with, and no other event.
const START: &[u8] = b"{\"type\":\"decision\",";

/// The label of a stored event; none when it is no decision. Every pipeline asks this of every event, so the record is
/// scanned and not read.
#[must_use]
pub fn label(record: &[u8]) -> Option<String> {
    if !record.starts_with(START) {
        return None;
    }
    let mut decision = None;
    let mut scanner = Scanner::new(std::str::from_utf8(record).ok()?);
    let scanned = scanner.object(1, |scanner, key| {
        if key.raw != "\"decision\"" || scanner.peek() != Some(b'{') {
            return scanner.value(2).map(|_| ());
        }
        let mut keys = Keys::default();
        scanner.object(2, |scanner, key| {
            let value = scanner.value(3)?;
            match key.raw {
                "\"flagKey\"" => keys.flag = value,
                "\"experimentKey\"" => keys.experiment = value,
                "\"ruleKey\"" => keys.rule = value,
                _ => {}
            }
            Ok(())
        })?;
        decision = Some(keys);
        Ok(())
    });
    let (Ok(()), Some(keys)) = (scanned, decision) else {
        return None;
    };
    let mut label = String::with_capacity(48);
    push_short(&mut label, keys.flag);
    label.push(BETWEEN);
    let experiment = match keys.experiment {
        "" | "null" => keys.rule,
        experiment => experiment,
    };
    push_short(&mut label, experiment);
    Some(label)
}

/// Where the keys stand in the record, as JSON; empty when they do not.
#[derive(Default)]
struct Keys<'a> {
    flag: &'a str,
    experiment: &'a str,
    rule: &'a str,
}

fn push_short(label: &mut String, raw: &str) {
    let key = Text::of(raw)
        .and_then(|text| text.read())
        .unwrap_or_default();
    label.extend(key.chars().filter(|c| *c != BETWEEN).take(KEY_CHARS_MAX));
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
