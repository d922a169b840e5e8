//! What a source may post, from where and how fast: the rates, and the lists of web origins, event names and kinds of
//! calls. Checked and brought into one form here; ingest keeps to them.

use serde_json::{Value, json};

use super::control::ChangeError;
use super::draft::{fault, good_name};
use super::store::StoreError;
use crate::blueprint::FieldFault;
use crate::event::Kind;

/// Entries of one list at most.
const ENTRIES_MAX: usize = 500;

/// Characters of one entry at most.
const ENTRY_CHARS_MAX: usize = 255;

/// What a source's keys may be used for beside the rate of the whole source. Everything left out is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Permits {
    /// Events a second each of its keys may post.
    pub key_rate: Option<u32>,
    /// Web origins its keys may be used from, as browsers name them, e.g. `https://shop.example`; the first label of
    /// a host may be `*`. Calls without an `Origin` header come from no browser and are not asked.
    pub origins: Option<Vec<String>>,
    /// Names its track calls may have; a `*` at the end stands for any rest.
    pub events: Option<Vec<String>>,
    /// Kinds of calls its keys may make.
    pub types: Option<Vec<Kind>>,
}

/// All of a source that can be set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceSpec {
    /// Name for people; unique.
    pub name: String,
    /// Events a second all its keys together may post.
    pub rate: Option<u32>,
    /// The rest.
    pub permits: Permits,
}

impl SourceSpec {
    /// A source of this name without limits.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// The same in one form (lower case, no doubles), and a fault for everything that cannot be used.
    pub(super) fn checked(self, faults: &mut Vec<FieldFault>) -> Self {
        let name = good_name(&self.name).unwrap_or_else(|(code, message)| {
            faults.push(fault("name", code, message));
            String::new()
        });
        for (field, rate) in [("rate", self.rate), ("key_rate", self.permits.key_rate)] {
            if rate == Some(0) {
                let message = "is 0; give events a second, or leave it out for no limit";
                faults.push(fault(field, "out_of_range", message));
            }
        }
        let Permits {
            key_rate,
            origins,
            events,
            types,
        } = self.permits;
        Self {
            name,
            rate: self.rate,
            permits: Permits {
                key_rate,
                origins: list("allowed_origins", origins, origin, faults),
                events: list("allowed_events", events, event, faults),
                types: list("allowed_types", types, Ok, faults),
            },
        }
    }

    /// As the audit log shows it.
    pub(super) fn shown(&self) -> Value {
        json!({
            "name": self.name,
            "rate": self.rate,
            "key_rate": self.permits.key_rate,
            "allowed_origins": self.permits.origins,
            "allowed_events": self.permits.events,
            "allowed_types": self.permits.types,
        })
    }
}

/// A list with each entry checked, once each; an empty one would let nothing in and is a mistake.
fn list<T, U: PartialEq>(
    field: &str,
    given: Option<Vec<T>>,
    check: impl Fn(T) -> Result<U, String>,
    faults: &mut Vec<FieldFault>,
) -> Option<Vec<U>> {
    let given = given?;
    if given.is_empty() {
        let message = "is empty, which would refuse everything; leave it out to allow everything";
        faults.push(fault(field, "empty", message));
    }
    if given.len() > ENTRIES_MAX {
        let message = format!("has {} entries; at most {ENTRIES_MAX}", given.len());
        faults.push(fault(field, "too_many", message));
        return None;
    }
    let mut known = Vec::with_capacity(given.len());
    for (place, entry) in given.into_iter().enumerate() {
        match check(entry) {
            Ok(entry) if known.contains(&entry) => {}
            Ok(entry) => known.push(entry),
            Err(message) => faults.push(fault(format!("{field}[{place}]"), "invalid", message)),
        }
    }
    Some(known)
}

/// An origin as browsers send it: scheme and host in lower case, no default port, nothing after it.
fn origin(given: String) -> Result<String, String> {
    let shown: String = given.chars().take(80).collect();
    let wrong = |why: &str| {
        format!("`{shown}` {why}; give an origin as browsers name it, e.g. https://shop.example")
    };
    let text = given.trim().trim_end_matches('/');
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| wrong("has no scheme"))?;
    let scheme = scheme.to_ascii_lowercase();
    let lawful = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if scheme.is_empty() || !scheme.chars().all(lawful) {
        return Err(wrong("has no usable scheme"));
    }
    if rest.contains(['/', '?', '#', '@']) || rest.chars().any(char::is_whitespace) {
        return Err(wrong("holds more than scheme, host and port"));
    }
    let (wild, host) = match rest.strip_prefix("*.") {
        Some(host) => ("*.", host),
        None => ("", rest),
    };
    if host.is_empty() || host.contains('*') || text.len() > ENTRY_CHARS_MAX {
        return Err(wrong(
            "has no usable host (a `*` may only be its first label)",
        ));
    }
    let host = if ["http", "https"].contains(&scheme.as_str()) {
        let url = url::Url::parse(&format!("{scheme}://{host}"))
            .map_err(|error| wrong(&format!("has no usable host: {error}")))?;
        let host = url.host_str().unwrap_or_default();
        match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    } else {
        host.to_ascii_lowercase()
    };
    Ok(format!("{scheme}://{wild}{host}"))
}

fn event(given: String) -> Result<String, String> {
    if given.is_empty() || given.chars().count() > ENTRY_CHARS_MAX {
        return Err(format!(
            "must have 1 to {ENTRY_CHARS_MAX} characters: the name as apps send it, or its beginning and a `*`"
        ));
    }
    Ok(given)
}

/// The column the permits stand in; none = no limits.
pub(super) fn column(permits: &Permits) -> Result<Option<String>, ChangeError> {
    if *permits == Permits::default() {
        return Ok(None);
    }
    serde_json::to_string(permits)
        .map(Some)
        .map_err(|error| ChangeError::from(unreadable("-", &error)))
}

/// Reads the column back.
pub(super) fn of_column(source: &str, column: Option<&str>) -> Result<Permits, StoreError> {
    let Some(text) = column else {
        return Ok(Permits::default());
    };
    serde_json::from_str(text).map_err(|error| unreadable(source, &error))
}

fn unreadable(source: &str, error: &serde_json::Error) -> StoreError {
    StoreError::Value {
        table: "source_permits",
        row: source.to_owned(),
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(permits: Permits) -> (Permits, Vec<String>) {
        let mut faults = Vec::new();
        let spec = SourceSpec {
            permits,
            ..SourceSpec::named("shop")
        };
        let spec = spec.checked(&mut faults);
        let faults = faults
            .into_iter()
            .map(|fault| format!("{} {}", fault.field, fault.code))
            .collect();
        (spec.permits, faults)
    }

    #[test]
    fn origins_are_kept_as_browsers_send_them() {
        let given = [
            " HTTPS://Shop.Example:443/",
            "https://shop.example",
            "http://localhost:3000",
            "https://*.Example.com",
            "https://bücher.example",
            "capacitor://localhost",
        ];
        let (permits, faults) = checked(Permits {
            origins: Some(given.map(str::to_owned).to_vec()),
            ..Permits::default()
        });
        assert_eq!(faults, [""; 0]);
        assert_eq!(
            permits.origins.unwrap(),
            [
                "https://shop.example",
                "http://localhost:3000",
                "https://*.example.com",
                "https://xn--bcher-kva.example",
                "capacitor://localhost",
            ]
        );
    }

    #[test]
    fn what_is_no_origin_name_or_list_is_told_with_its_place() {
        let wrong = [
            "shop.example",
            "https://",
            "https://a.example/path",
            "https://u@a.example",
            "https://a.*.example",
            "null",
        ];
        let (_, faults) = checked(Permits {
            origins: Some(wrong.map(str::to_owned).to_vec()),
            events: Some(vec!["Order Completed".to_owned(), String::new()]),
            types: Some(Vec::new()),
            key_rate: Some(0),
        });
        let expected: Vec<String> = ["key_rate out_of_range".to_owned()]
            .into_iter()
            .chain((0..wrong.len()).map(|n| format!("allowed_origins[{n}] invalid")))
            .chain(["allowed_events[1] invalid", "allowed_types empty"].map(str::to_owned))
            .collect();
        assert_eq!(faults, expected);
    }
}
