//! Where alerts are sent, and when: the endpoints, their rules and thresholds, and their signing secrets at rest.
//!
//! What was raised and what is still to be sent stands in [`super::alert_log`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::{OptionalExtension as _, Transaction};
use serde_json::{Value, json};

use super::audit::{self, Actor, Deed};
use super::control::{ChangeError, Inner, Registry};
use super::draft::fault;
use super::picture::PictureError;
use super::random::Random;
use super::seal::{KeyRing, Sealed};
use super::store::StoreError;
use crate::blueprint::FieldFault;
use crate::clock::Millis;
use crate::secret::Secret;

/// The fields under which the secrets are sealed.
const SECRET: &str = "signing_secret";
const OLD_SECRET: &str = "signing_secret.old";

/// After a rotation, notices are signed with the old secret too for so long.
const OLD_SECRET_FOR_MS: Millis = 24 * 3_600_000;

/// Bytes of a secret (the specification asks for 24 to 64).
const SECRET_BYTES: usize = 32;

/// Most endpoints.
const ENDPOINTS_MAX: usize = 20;

/// A name no endpoint may have: `GET /v1/admin/alerts/state` is a call of its own.
const RESERVED: &str = "state";

/// What is watched.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// An integration, or one of its requests, is paused: by an admin, or because the vendor will have none of it.
    IntegrationPaused,
    /// More dead letters than the threshold.
    DeadLetters,
    /// The oldest event without an outcome is older than the threshold.
    OldestWaiting,
    /// The datafile (or another document) was not confirmed for longer than the threshold.
    DatafileStale,
    /// No event was accepted for longer than the threshold.
    ZeroTraffic,
    /// A source that has posted before posted nothing for longer than the threshold.
    SourceSilent,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::IntegrationPaused,
        Self::DeadLetters,
        Self::OldestWaiting,
        Self::DatafileStale,
        Self::ZeroTraffic,
        Self::SourceSilent,
    ];

    /// The word in the database, in answers and in metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IntegrationPaused => "integration_paused",
            Self::DeadLetters => "dead_letters",
            Self::OldestWaiting => "oldest_waiting",
            Self::DatafileStale => "datafile_stale",
            Self::ZeroTraffic => "zero_traffic",
            Self::SourceSilent => "source_silent",
        }
    }

    /// What its value and threshold count.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::DeadLetters => "events",
            _ => "seconds",
        }
    }

    /// Whether what it finds is about a source, not an integration.
    #[must_use]
    pub fn is_about_source(self) -> bool {
        self == Self::SourceSilent
    }

    /// The rule of a word.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.as_str() == word)
    }
}

/// A threshold in seconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Seconds {
    /// Fires above this many seconds.
    pub above_s: u64,
}

/// A threshold in events.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// Fires above this many events.
    pub above: u64,
}

/// The rules in use with their thresholds; a rule that is null or left out is off.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// An integration is paused for at least so long; 0 = at once.
    pub integration_paused: Option<Seconds>,
    /// Dead letters of an integration.
    pub dead_letters: Option<Events>,
    /// Age of an integration's oldest event without an outcome.
    pub oldest_waiting: Option<Seconds>,
    /// Time since an integration's datafile was last confirmed.
    pub datafile_stale: Option<Seconds>,
    /// Time since the gateway last accepted an event.
    pub zero_traffic: Option<Seconds>,
    /// Time since a source's last accepted event; of sources that ever posted one.
    pub source_silent: Option<Seconds>,
}

impl Rules {
    /// All rules, at the thresholds that suit most.
    #[must_use]
    pub fn usual() -> Self {
        Self {
            integration_paused: Some(Seconds { above_s: 0 }),
            dead_letters: Some(Events { above: 0 }),
            oldest_waiting: Some(Seconds { above_s: 300 }),
            datafile_stale: Some(Seconds { above_s: 900 }),
            zero_traffic: Some(Seconds { above_s: 3_600 }),
            // What is usual differs from app to app: an endpoint names it.
            source_silent: None,
        }
    }

    /// A rule's threshold; none when it is off.
    #[must_use]
    pub fn threshold(&self, rule: Rule) -> Option<u64> {
        let seconds = |of: Option<Seconds>| of.map(|of| of.above_s);
        match rule {
            Rule::IntegrationPaused => seconds(self.integration_paused),
            Rule::DeadLetters => self.dead_letters.map(|of| of.above),
            Rule::OldestWaiting => seconds(self.oldest_waiting),
            Rule::DatafileStale => seconds(self.datafile_stale),
            Rule::ZeroTraffic => seconds(self.zero_traffic),
            Rule::SourceSilent => seconds(self.source_silent),
        }
    }
}

/// What one endpoint is told, and where.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertSettings {
    /// Where notices are posted.
    pub url: String,
    /// When.
    pub rules: Rules,
    /// Only about these integrations; none = about all.
    pub integrations: Option<Vec<String>>,
    /// Also told when it is over.
    pub resolved: bool,
    /// Told again every so many hours while it lasts; 0 = once.
    pub repeat_h: u32,
    /// It is over when nothing was seen of it for so many seconds.
    pub resolve_after_s: u32,
}

impl AlertSettings {
    /// The usual rules for this address.
    #[must_use]
    pub fn usual(url: String) -> Self {
        Self {
            url,
            rules: Rules::usual(),
            integrations: None,
            resolved: true,
            repeat_h: 4,
            resolve_after_s: 60,
        }
    }
}

/// An endpoint with its secrets.
#[derive(Debug, Clone)]
pub struct AlertEndpoint {
    /// Chosen by an admin; unique.
    pub name: String,
    /// What it is told, and where.
    pub settings: AlertSettings,
    /// `whsec_…`.
    pub secret: Secret,
    /// The secret before it, and until when it signs too.
    pub old_secret: Option<(Secret, Millis)>,
    /// It answered 410: nothing is sent until it is put again.
    pub gone_at_ms: Option<Millis>,
    /// When it was made.
    pub created_at_ms: Millis,
    /// When it was put last.
    pub changed_at_ms: Millis,
}

/// A row of `alert_endpoints`.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "columns")]
pub struct AlertEndpointRow {
    pub name: String,
    pub settings: String,
    pub sealed: Sealed,
    pub old_sealed: Option<Sealed>,
    pub old_until_ms: Option<Millis>,
    pub gone_at_ms: Option<Millis>,
    pub created_at_ms: Millis,
    pub changed_at_ms: Millis,
}

pub(super) const ROWS: &str = "SELECT name, settings, key_id, sealed, old_key_id, old_sealed, old_until_ms, gone_at_ms, \
     created_at_ms, changed_at_ms FROM alert_endpoints ORDER BY ord";

pub(super) fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<AlertEndpointRow> {
    let old: (Option<String>, Option<Vec<u8>>) = (row.get(4)?, row.get(5)?);
    Ok(AlertEndpointRow {
        name: row.get(0)?,
        settings: row.get(1)?,
        sealed: Sealed {
            key_id: row.get(2)?,
            bytes: row.get(3)?,
        },
        old_sealed: old
            .0
            .zip(old.1)
            .map(|(key_id, bytes)| Sealed { key_id, bytes }),
        old_until_ms: row.get(6)?,
        gone_at_ms: row.get(7)?,
        created_at_ms: row.get(8)?,
        changed_at_ms: row.get(9)?,
    })
}

/// A stored endpoint with its secrets.
pub(super) fn opened(row: AlertEndpointRow, ring: &KeyRing) -> Result<AlertEndpoint, PictureError> {
    let settings = serde_json::from_str(&row.settings).map_err(|error| StoreError::Value {
        table: "alert_endpoints",
        row: row.name.clone(),
        detail: error.to_string(),
    })?;
    let bound = bound(&row.name);
    let open = |field: &str, sealed: &Sealed| {
        ring.open(&bound, field, sealed)
            .map_err(|error| secret_fault(&row.name, field, error))
    };
    let old = row
        .old_sealed
        .as_ref()
        .map(|sealed| open(OLD_SECRET, sealed))
        .transpose()?;
    Ok(AlertEndpoint {
        settings,
        secret: open(SECRET, &row.sealed)?,
        old_secret: old.zip(row.old_until_ms),
        gone_at_ms: row.gone_at_ms,
        created_at_ms: row.created_at_ms,
        changed_at_ms: row.changed_at_ms,
        name: row.name,
    })
}

impl Registry {
    /// Makes an endpoint or changes it. Returns its signing secret when a new one was made (the first time, and with
    /// `rotate`), which is shown only now; after a rotation the one before signs too for a day.
    ///
    /// # Errors
    /// When a field cannot be used, or the database fails.
    pub async fn put_alert_endpoint(
        &self,
        actor: &Actor,
        name: &str,
        settings: AlertSettings,
        rotate: bool,
    ) -> Result<Option<Secret>, ChangeError> {
        let done = self.try_put(actor, name, settings, rotate).await;
        self.noted(actor, "alert_endpoint.put", name, done).await
    }

    async fn try_put(
        &self,
        actor: &Actor,
        name: &str,
        settings: AlertSettings,
        rotate: bool,
    ) -> Result<Option<Secret>, ChangeError> {
        let _turn = self.0.turn.lock().await;
        let picture = self.picture();
        let before = picture.alert_endpoint(name).cloned();
        let mut faults = Vec::new();
        check_name(name, &mut faults);
        self.check_settings(&settings, &mut faults);
        if before.is_none() && picture.alert_endpoints.len() >= ENDPOINTS_MAX {
            let message = format!("there are {ENDPOINTS_MAX} endpoints already; delete one first");
            faults.push(fault("name", "too_many", message));
        }
        if !faults.is_empty() {
            return Err(ChangeError::Fields(faults));
        }
        let (actor, name) = (actor.clone(), name.to_owned());
        self.commit(move |tx, inner| {
            let now_ms = inner.clock.now_ms();
            let made = (before.is_none() || rotate).then(|| new_secret(&inner.random));
            store(
                tx,
                inner,
                &name,
                &settings,
                made.as_ref(),
                before.as_deref(),
                now_ms,
            )?;
            let mut after = masked(&settings);
            if let (Some(after), true) = (after.as_object_mut(), made.is_some()) {
                after.insert("secret".to_owned(), json!("new"));
            }
            let deed = Deed {
                actor: &actor,
                action: "alert_endpoint.put",
                object: &name,
                before: before.as_ref().map(|before| masked(&before.settings)),
                after: Some(after),
                result: "ok",
            };
            audit::write(tx, now_ms, &deed)?;
            Ok(made)
        })
        .await
    }

    /// Removes an endpoint and what was still to be sent to it.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    pub async fn delete_alert_endpoint(
        &self,
        actor: &Actor,
        name: &str,
    ) -> Result<(), ChangeError> {
        let done = self.try_delete(actor, name).await;
        self.noted(actor, "alert_endpoint.delete", name, done).await
    }

    async fn try_delete(&self, actor: &Actor, name: &str) -> Result<(), ChangeError> {
        let _turn = self.0.turn.lock().await;
        let Some(before) = self.picture().alert_endpoint(name).cloned() else {
            return Err(ChangeError::not_found("alert endpoint", name));
        };
        let actor = actor.clone();
        self.commit(move |tx, inner| {
            tx.execute(
                "DELETE FROM alert_endpoints WHERE name = ?1",
                [&before.name],
            )?;
            tx.execute("DELETE FROM alerts WHERE endpoint = ?1", [&before.name])?;
            let deed = Deed {
                actor: &actor,
                action: "alert_endpoint.delete",
                object: &before.name,
                before: Some(masked(&before.settings)),
                after: None,
                result: "ok",
            };
            Ok(audit::write(tx, inner.clock.now_ms(), &deed)?)
        })
        .await
    }

    /// An endpoint said 410: what waits for it is given up, and nothing more is sent until it is put again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn alert_endpoint_gone(&self, name: &str) -> Result<(), ChangeError> {
        let name = name.to_owned();
        self.commit(move |tx, inner| {
            let now_ms = inner.clock.now_ms();
            tx.execute(
                "UPDATE alert_endpoints SET gone_at_ms = ?2 WHERE name = ?1",
                (&name, now_ms),
            )?;
            tx.execute(
                "UPDATE alert_notices SET outcome = 'given_up', ended_ms = ?2, last_error = 'status 410: the endpoint is gone' \
                 WHERE endpoint = ?1 AND outcome IS NULL",
                (&name, now_ms),
            )?;
            let deed = Deed {
                actor: &Actor::startup(),
                action: "alert_endpoint.gone",
                object: &name,
                before: None,
                after: None,
                result: "ok",
            };
            Ok(audit::write(tx, now_ms, &deed)?)
        })
        .await
    }

    fn check_settings(&self, settings: &AlertSettings, faults: &mut Vec<FieldFault>) {
        if let Err((code, message)) = self.0.checks.urls.check_url(&settings.url) {
            faults.push(fault("url", &code, message));
        }
        let rules = &settings.rules;
        if Rule::ALL
            .iter()
            .all(|rule| rules.threshold(*rule).is_none())
        {
            let message =
                "turns every rule off; name at least one, or leave `rules` out for the usual ones";
            faults.push(fault("rules", "empty", message));
        }
        for id in settings.integrations.iter().flatten() {
            if self.picture().integration(id).is_none() {
                let message = format!("names `{}`, which is not installed", id.escape_default());
                faults.push(fault("integrations", "unknown_integration", message));
            }
        }
        if settings.integrations.as_ref().is_some_and(Vec::is_empty) {
            let message = "is empty; leave it out for all integrations";
            faults.push(fault("integrations", "empty", message));
        }
        if settings.repeat_h > 24 * 30 {
            let message = format!("is {}; it must be from 0 (never) to 720", settings.repeat_h);
            faults.push(fault("repeat_h", "out_of_range", message));
        }
        if settings.resolve_after_s > 86_400 {
            let message = format!(
                "is {}; it must be from 0 to 86400",
                settings.resolve_after_s
            );
            faults.push(fault("resolve_after_s", "out_of_range", message));
        }
    }
}

/// How it may be shown.
fn masked(settings: &AlertSettings) -> Value {
    serde_json::to_value(settings).unwrap_or_default()
}

fn check_name(name: &str, faults: &mut Vec<FieldFault>) {
    let lawful = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 40 || !name.chars().all(lawful) || name == RESERVED {
        let message = "must be 1 to 40 small letters, digits, `-` or `_`, and not `state`";
        faults.push(fault("name", "invalid_name", message));
    }
}

fn new_secret(random: &Random) -> Secret {
    let mut bytes = [0_u8; SECRET_BYTES];
    random.fill(&mut bytes);
    Secret::new(format!("whsec_{}", STANDARD.encode(bytes)))
}

/// What an endpoint's secrets are bound to. Persisted in the cipher text: must be kept stable.
fn bound(name: &str) -> String {
    format!("alert:{name}")
}

fn store(
    tx: &Transaction<'_>,
    inner: &Inner,
    name: &str,
    settings: &AlertSettings,
    made: Option<&Secret>,
    before: Option<&AlertEndpoint>,
    now_ms: Millis,
) -> Result<(), ChangeError> {
    let text = masked(settings).to_string();
    let seal = |field: &str, secret: &Secret| {
        inner
            .ring
            .seal(&inner.random, &bound(name), field, secret.expose())
            .map_err(|error| secret_fault(name, field, error))
    };
    if before.is_some() {
        tx.execute(
            "UPDATE alert_endpoints SET settings = ?2, gone_at_ms = NULL, changed_at_ms = ?3 WHERE name = ?1",
            (name, &text, now_ms),
        )?;
    }
    let Some(secret) = made else { return Ok(()) };
    let sealed = seal(SECRET, secret)?;
    match before {
        None => {
            tx.execute(
                "INSERT INTO alert_endpoints (name, settings, key_id, sealed, created_at_ms, changed_at_ms) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
                (name, &text, &sealed.key_id, &sealed.bytes, now_ms),
            )?;
        }
        Some(before) => {
            let old = seal(OLD_SECRET, &before.secret)?;
            tx.execute(
                "UPDATE alert_endpoints SET key_id = ?2, sealed = ?3, old_key_id = ?4, old_sealed = ?5, old_until_ms = ?6 \
                 WHERE name = ?1",
                (
                    name,
                    &sealed.key_id,
                    &sealed.bytes,
                    &old.key_id,
                    &old.bytes,
                    now_ms + OLD_SECRET_FOR_MS,
                ),
            )?;
        }
    }
    Ok(())
}

/// Seals again, with the first key of the ring, what was sealed with another.
pub(super) fn reseal(
    tx: &Transaction<'_>,
    ring: &KeyRing,
    random: &Random,
) -> Result<(), PictureError> {
    let sqlite = |error: rusqlite::Error| PictureError::from(StoreError::from(error));
    let rows: Vec<AlertEndpointRow> = {
        let mut query = tx.prepare(ROWS).map_err(sqlite)?;
        let rows = query.query_map([], row).map_err(sqlite)?;
        rows.collect::<Result<_, _>>().map_err(sqlite)?
    };
    for row in rows {
        let again = |field: &str, sealed: &Sealed| {
            ring.open(&bound(&row.name), field, sealed)
                .and_then(|text| ring.seal(random, &bound(&row.name), field, text.expose()))
                .map_err(|error| secret_fault(&row.name, field, error))
        };
        if !ring.is_current(&row.sealed.key_id) {
            let sealed = again(SECRET, &row.sealed)?;
            tx.execute(
                "UPDATE alert_endpoints SET key_id = ?2, sealed = ?3 WHERE name = ?1",
                (&row.name, &sealed.key_id, &sealed.bytes),
            )
            .map_err(sqlite)?;
        }
        if let Some(old) = row
            .old_sealed
            .as_ref()
            .filter(|old| !ring.is_current(&old.key_id))
        {
            let sealed = again(OLD_SECRET, old)?;
            tx.execute(
                "UPDATE alert_endpoints SET old_key_id = ?2, old_sealed = ?3 WHERE name = ?1",
                (&row.name, &sealed.key_id, &sealed.bytes),
            )
            .map_err(sqlite)?;
        }
    }
    Ok(())
}

/// Whether there is such an endpoint, inside a transaction.
pub(super) fn exists(tx: &Transaction<'_>, name: &str) -> rusqlite::Result<bool> {
    let found: Option<i64> = tx
        .query_row(
            "SELECT 1 FROM alert_endpoints WHERE name = ?1",
            [name],
            |row| row.get(0),
        )
        .optional()?;
    Ok(found.is_some())
}

fn secret_fault(name: &str, field: &str, error: super::seal::UnsealError) -> PictureError {
    PictureError::Secret {
        integration: bound(name),
        field: field.to_owned(),
        source: error,
    }
}
