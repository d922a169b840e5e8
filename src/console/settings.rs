//! The settings in effect, each with where its value comes from.

use askama::Template;
use axum::extract::{Extension, State};
use axum::http::StatusCode;

use super::Console;
use super::format::{bytes, span};
use super::frame::{Answer, Fail, Frame, page as rendered};
use super::gate::Who;
use crate::registry::Role;

#[derive(Template)]
#[template(path = "settings.html")]
struct Page {
    frame: Frame,
    version: &'static str,
    rows: Vec<Row>,
}

struct Row {
    key: String,
    value: String,
    /// The same as people say it: bytes and long times.
    meaning: Option<String>,
    origin: String,
    is_default: bool,
    variable: String,
}

/// The page. Paths and addresses of the machine are nobody's business below the role admin.
pub(super) async fn page(State(console): State<Console>, Extension(who): Extension<Who>) -> Answer {
    if !who.may(Role::Admin) {
        return Err(Fail::new(
            StatusCode::FORBIDDEN,
            "Your role does not allow this",
            "The settings show this machine's paths and addresses: they need the role admin.",
        ));
    }
    let rows = console
        .0
        .settings
        .iter()
        .map(|(key, (value, origin))| Row {
            meaning: meaning(key, value),
            value: if value.is_empty() {
                "–".to_owned()
            } else {
                value.clone()
            },
            origin: origin.to_string(),
            is_default: *origin == crate::config::Origin::Default,
            variable: format!("AQUEDUCT_{}", key.to_uppercase()),
            key: key.clone(),
        })
        .collect();
    Ok(rendered(&Page {
        frame: Frame::new(&who, "settings", "Settings"),
        version: env!("CARGO_PKG_VERSION"),
        rows,
    }))
}

fn meaning(key: &str, value: &str) -> Option<String> {
    let number: u64 = value.parse().ok()?;
    if key.ends_with("_s") && number >= 60 {
        return Some(span(&i64::try_from(number).ok()?.checked_mul(1_000)?));
    }
    let is_bytes = key.split('_').any(|word| word == "bytes");
    (is_bytes && number >= 1_024).then(|| bytes(&number))
}

#[cfg(test)]
mod tests {
    use super::meaning;

    #[test]
    fn sizes_and_times_are_said_in_words() {
        for (key, value, said) in [
            ("retain_bytes", "536870912", Some("512 MB")),
            ("max_body_bytes", "512000", Some("500 KB")),
            ("attempts_keep_s", "604800", Some("7 days")),
            ("drain_s", "25", None),
            ("source_rate", "4096", None),
            ("log_format", "json", None),
        ] {
            assert_eq!(meaning(key, value).as_deref(), said, "{key}");
        }
    }
}
