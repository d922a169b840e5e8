//! The settings in effect, each with where its value comes from.

use askama::Template;
use axum::extract::{Extension, State};
use axum::http::StatusCode;

use super::Console;
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
