//! Reads `settings` into a [`Tuning`]: every unknown, wrong-typed and out-of-range field at once.

use serde_json::{Map, Value};

use super::Tuning;
use crate::blueprint::FieldFault;

/// A whole-number setting: its name, its least and greatest value, whether null gives it back to the default.
struct Setting {
    name: &'static str,
    least: u64,
    most: u64,
    optional: bool,
}

const fn setting(name: &'static str, least: u64, most: u64) -> Setting {
    Setting {
        name,
        least,
        most,
        optional: false,
    }
}

const fn optional(name: &'static str, least: u64, most: u64) -> Setting {
    Setting {
        name,
        least,
        most,
        optional: true,
    }
}

const DAY_S: u64 = 24 * 3_600;

/// Every field of [`Tuning`]; a test compares the two.
const SETTINGS: [Setting; 11] = [
    setting("in_flight_max", 1, 256),
    optional("batch_items", 1, 100_000),
    optional("batch_bytes", 1_024, 64 << 20),
    optional("batch_wait_ms", 0, 60_000),
    setting("timeout_ms", 100, 120_000),
    setting("retry_base_ms", 10, 60_000),
    setting("retry_cap_ms", 10, 3_600_000),
    setting("retry_for_s", 0, 30 * DAY_S),
    optional("hold_s", 0, DAY_S),
    setting("backlog_age_s", 60, 365 * DAY_S),
    setting("backlog_bytes", 1 << 20, 1 << 50),
];

/// True for a field of [`Tuning`].
pub(super) fn is_setting(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.name == name)
}

/// `now` with the entered fields changed. Fields that are no setting are the caller's business.
pub(super) fn changed(
    now: &Tuning,
    entered: &Map<String, Value>,
    faults: &mut Vec<FieldFault>,
) -> Tuning {
    let before = faults.len();
    let Ok(Value::Object(mut merged)) = serde_json::to_value(now) else {
        return now.clone();
    };
    for setting in &SETTINGS {
        let Some(value) = entered.get(setting.name) else {
            continue;
        };
        match setting.read(value) {
            Ok(value) => {
                merged.insert(setting.name.to_owned(), value);
            }
            Err((code, message)) => faults.push(FieldFault {
                field: format!("settings.{}", setting.name),
                code: code.to_owned(),
                message,
            }),
        }
    }
    if faults.len() > before {
        return now.clone();
    }
    let tuning = serde_json::from_value(Value::Object(merged)).unwrap_or_else(|_| now.clone());
    if tuning.retry_cap_ms < tuning.retry_base_ms {
        faults.push(FieldFault {
            field: "settings.retry_cap_ms".to_owned(),
            code: "out_of_range".to_owned(),
            message: format!(
                "is {}, less than retry_base_ms ({}); the longest wait cannot be shorter than the first",
                tuning.retry_cap_ms, tuning.retry_base_ms
            ),
        });
    }
    tuning
}

impl Setting {
    fn read(&self, value: &Value) -> Result<Value, (&'static str, String)> {
        if value.is_null() && self.optional {
            return Ok(Value::Null);
        }
        let number = value.as_u64().ok_or_else(|| {
            (
                "wrong_type",
                format!(
                    "must be a whole number from {} to {}",
                    self.least, self.most
                ),
            )
        })?;
        if (self.least..=self.most).contains(&number) {
            Ok(Value::from(number))
        } else {
            Err((
                "out_of_range",
                format!(
                    "is {number}; it must be from {} to {}",
                    self.least, self.most
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{SETTINGS, changed};
    use crate::registry::Tuning;

    #[test]
    fn every_field_can_be_set() {
        let fields = serde_json::to_value(Tuning::default()).unwrap();
        let names: Vec<_> = fields.as_object().unwrap().keys().cloned().collect();
        let known: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        assert_eq!(names, known);
    }

    #[test]
    fn defaults_are_in_range_and_null_gives_an_optional_one_back() {
        let now = Tuning {
            hold_s: Some(5),
            ..Tuning::default()
        };
        let mut faults = Vec::new();
        let all = serde_json::to_value(Tuning::default()).unwrap();
        assert_eq!(
            changed(&now, all.as_object().unwrap(), &mut faults),
            Tuning::default()
        );
        assert_eq!(faults, []);
    }

    #[test]
    fn all_faults_come_at_once() {
        let entered = json!({ "in_flight_max": 0, "timeout_ms": "5", "batch_items": 1.5, "retry_for_s": -1, "hold_s": 60 });
        let mut faults = Vec::new();
        let now = Tuning::default();
        assert_eq!(
            changed(&now, entered.as_object().unwrap(), &mut faults),
            now
        );
        let found: Vec<_> = faults
            .iter()
            .map(|fault| (fault.field.as_str(), fault.code.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("settings.in_flight_max", "out_of_range"),
                ("settings.batch_items", "wrong_type"),
                ("settings.timeout_ms", "wrong_type"),
                ("settings.retry_for_s", "wrong_type"),
            ]
        );
    }
}
