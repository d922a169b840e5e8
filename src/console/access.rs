//! Sources with their write keys, and admin tokens. Keys and tokens are shown once, on the page after they were made.

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
use super::views::{FieldFault, Key, Listed, Source, Token};
use crate::registry::Role;

#[derive(Template)]
#[template(path = "sources.html")]
struct SourcesPage {
    frame: Frame,
    rows: Vec<SourceRow>,
    name: String,
    name_fault: Option<String>,
    rate: String,
    rate_fault: Option<String>,
}

struct SourceRow {
    source: Source,
    created: When,
    keys: Vec<(Key, When)>,
}

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

/// The sources.
pub(super) async fn sources(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
) -> Answer {
    Ok(page(&sources_page(&console, &who, None, Vec::new()).await?))
}

async fn sources_page(
    console: &Console,
    who: &Who,
    form: Option<&Form>,
    mut faults: Vec<FieldFault>,
) -> Result<SourcesPage, Fail> {
    let now_ms = console.now_ms();
    let listed: Listed<Source> = console.api().get(&who.actor, "/sources?limit=100").await?;
    Ok(SourcesPage {
        frame: Frame::new(who, "sources", "Sources"),
        name_fault: take_fault(&mut faults, &["name"]),
        rate_fault: take_fault(&mut faults, &["rate"]),
        name: form.map_or("", |form| form.text("name")).to_owned(),
        rate: form.map_or("", |form| form.text("rate")).to_owned(),
        rows: listed
            .data
            .into_iter()
            .map(|source| SourceRow {
                created: When::iso(&source.created_at, now_ms),
                keys: source
                    .keys
                    .iter()
                    .map(|key| (key.clone(), When::iso(&key.created_at, now_ms)))
                    .collect(),
                source,
            })
            .collect(),
    })
}

/// Makes one.
pub(super) async fn create_source(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
) -> Answer {
    let mut body = json!({ "name": form.text("name").trim() });
    if let Some(rate) = form.given("rate") {
        body["rate"] = serde_json::from_str::<serde_json::Number>(rate)
            .map_or_else(|_| json!(rate), serde_json::Value::Number);
    }
    let made: Result<Source, Refusal> = console
        .api()
        .call(&who.actor, Method::POST, "/sources", Some(body))
        .await;
    match made {
        Ok(source) => {
            let words = format!(
                "The write key of {}. It is shown only now: copy it.",
                source.name
            );
            let notice = Notice::with_secret(words, source.write_key.unwrap_or_default());
            Ok(who.go(&console, "/sources", notice))
        }
        Err(refusal) if !refusal.errors.is_empty() => {
            let made = sources_page(&console, &who, Some(&form), refusal.errors).await?;
            Ok(rendered(StatusCode::UNPROCESSABLE_ENTITY, &made))
        }
        Err(refusal) => Err(refusal.into()),
    }
}

/// Gives a source a new key beside the newest of its old ones.
pub(super) async fn rotate_key(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
    Path(id): Path<String>,
) -> Answer {
    let label = form.text("label").trim();
    let body = if label.is_empty() {
        json!({})
    } else {
        json!({ "label": label })
    };
    let source: Source = console
        .api()
        .call(
            &who.actor,
            Method::POST,
            &format!("/sources/{}/rotate-key", segment(&id)),
            Some(body),
        )
        .await?;
    let words = format!(
        "The new write key of {}. It is shown only now: copy it. The key before it works until you end it, or rotate again.",
        source.name
    );
    let notice = Notice::with_secret(words, source.write_key.unwrap_or_default());
    Ok(who.go(&console, "/sources", notice))
}

/// Ends a key.
pub(super) async fn revoke_key(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Path((id, key)): Path<(String, String)>,
) -> Answer {
    let path = format!("/sources/{}/keys/{}", segment(&id), segment(&key));
    console.api().delete(&who.actor, &path).await?;
    Ok(who.go(
        &console,
        "/sources",
        Notice::done("The key is ended: posts with it are refused from now on."),
    ))
}

/// Removes a source.
pub(super) async fn remove_source(
    State(console): State<Console>,
    Extension(who): Extension<Who>,
    Extension(form): Extension<Form>,
    Path(id): Path<String>,
) -> Answer {
    who.needs(Role::Admin)?;
    let source: Source = console
        .api()
        .get(&who.actor, &format!("/sources/{}", segment(&id)))
        .await?;
    if form.text("name").trim() != source.name {
        let notice = Notice::fault("Not removed: the name typed is not the source's.");
        return Ok(who.go(&console, "/sources", notice));
    }
    let path = format!("/sources/{}", segment(&id));
    console.api().delete(&who.actor, &path).await?;
    let notice = Notice::done(format!(
        "{} is removed; what it posted is delivered all the same.",
        source.name
    ));
    Ok(who.go(&console, "/sources", notice))
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
