//! Admin tokens. A token is shown once, on the page after it was made.

use askama::Template;
use axum::extract::{Extension, Path, State};
use axum::http::{Method, StatusCode};
use serde_json::json;

use super::Console;
use super::api::Refusal;
use super::fields::take_fault;
use super::form::{Form, segment};
use super::format::{Pill, When};
use super::frame::{Answer, Fail, Frame, page, rendered};
use super::gate::Who;
use super::session::Notice;
use super::views::{FieldFault, Listed, Token};

#[derive(Template)]
#[template(path = "tokens.html")]
struct TokensPage {
    frame: Frame,
    rows: Vec<TokenRow>,
    name: String,
    name_fault: Option<String>,
    expires: String,
    expires_fault: Option<String>,
    roles: Vec<(&'static str, &'static str, bool)>,
}

struct TokenRow {
    token: Token,
    state: Pill,
    created: When,
    expires: Option<When>,
    own: bool,
}

const ROLES: [(&str, &str); 4] = [
    (
        "viewer",
        "Viewer: sees everything but tokens and the audit log",
    ),
    (
        "operator",
        "Operator: also pauses, resumes, tests and replays",
    ),
    (
        "editor",
        "Editor: also installs, changes settings and blueprints",
    ),
    ("admin", "Admin: also sources, tokens and the audit log"),
];

/// The tokens.
pub(super) async fn tokens(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
) -> Answer {
    Ok(page(&tokens_page(&console, &who, None, Vec::new()).await?))
}

async fn tokens_page(
    console: &Console,
    who: &Who,
    form: Option<&Form>,
    mut faults: Vec<FieldFault>,
) -> Result<TokensPage, Fail> {
    let now_ms = console.now_ms();
    let listed: Listed<Token> = console.api().get(&who.actor, "/tokens?limit=100").await?;
    let chosen = form.map_or("viewer", |form| form.text("role"));
    let mut rows: Vec<TokenRow> = listed
        .data
        .into_iter()
        .map(|token| TokenRow {
            state: match (&token.revoked_at, token.live) {
                (Some(_), _) => Pill::new("quiet", "revoked"),
                (None, true) => Pill::new("good", "live"),
                (None, false) => Pill::new("quiet", "expired"),
            },
            created: When::iso(&token.created_at, now_ms),
            expires: token.expires_at.as_deref().map(|at| When::iso(at, now_ms)),
            own: token.id == who.actor.id,
            token,
        })
        .collect();
    rows.sort_by_key(|row| !row.token.live);
    Ok(TokensPage {
        frame: Frame::new(who, "tokens", "Tokens"),
        rows,
        name_fault: take_fault(&mut faults, &["name"]),
        expires_fault: take_fault(&mut faults, &["expires_at"]),
        name: form.map_or("", |form| form.text("name")).to_owned(),
        expires: form.map_or("", |form| form.text("expires")).to_owned(),
        roles: ROLES
            .iter()
            .map(|(role, words)| (*role, *words, *role == chosen))
            .collect(),
    })
}

/// Makes one.
pub(super) async fn create_token(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
) -> Answer {
    let mut body = json!({ "name": form.text("name").trim(), "role": form.text("role") });
    if let Some(date) = form.given("expires") {
        // A date field gives a day; the token works until its end.
        body["expires_at"] = json!(format!("{date}T23:59:59Z"));
    }
    let made: Result<Token, Refusal> = console
        .api()
        .call(&who.actor, Method::POST, "/tokens", Some(body))
        .await;
    match made {
        Ok(token) => {
            let words = format!(
                "The token of {}. It is shown only now: copy it.",
                token.name
            );
            let notice = Notice::with_secret(words, token.token.unwrap_or_default());
            Ok(who.go(&console, "/tokens", notice))
        }
        Err(refusal) if !refusal.errors.is_empty() => {
            let made = tokens_page(&console, &who, Some(&form), refusal.errors).await?;
            Ok(rendered(StatusCode::UNPROCESSABLE_ENTITY, &made))
        }
        Err(refusal) => Err(refusal.into()),
    }
}

/// Ends one; its sessions end with it.
pub(super) async fn revoke_token(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer {
    let path = format!("/tokens/{}", segment(&id));
    console.api().delete(&who.actor, &path).await?;
    Ok(who.go(
        &console,
        "/tokens",
        Notice::done("The token is revoked; its sessions are ended."),
    ))
}
