//! Agents that sources listen to: what is asked of them, and their keys at rest.

use rusqlite::Transaction;
use serde_json::{Value, json};

use super::Agent;
use super::checks::UrlCheck;
use super::control::{ChangeError, Inner};
use super::draft::fault;
use super::picture::PictureError;
use super::random::Random;
use super::seal::{KeyRing, Sealed};
use super::store::{AgentRow, StoreError};
use crate::blueprint::FieldFault;
use crate::secret::Secret;

/// The field under which its key is sealed.
const FIELD: &str = "agent.sdk_key";

/// What an Agent may be asked for (optimizely/agent, `pkg/handlers/notification.go`).
const KINDS: [&str; 3] = ["decision", "track", "project_config_update"];

/// An Agent somebody wants to listen to.
#[derive(Debug, Clone)]
pub struct NewAgent {
    /// Its base address.
    pub url: String,
    /// The key to ask it with.
    pub sdk_key: Secret,
    /// Kinds of notifications; none: decisions.
    pub filter: Option<String>,
}

impl NewAgent {
    /// The Agent, or faults for everything that cannot be used.
    pub(super) fn checked(
        self,
        urls: &dyn UrlCheck,
        faults: &mut Vec<FieldFault>,
    ) -> Option<Agent> {
        let before = faults.len();
        let url = self.url.trim().trim_end_matches('/').to_owned();
        if let Err((code, message)) = urls.check_url(&url) {
            faults.push(fault("agent.url", &code, message));
        } else if url.contains(['?', '#']) {
            let message =
                "holds a query; give the Agent's base address, e.g. https://agent.example.org";
            faults.push(fault("agent.url", "invalid_url", message));
        }
        // optimizely/agent, `sdkKeyRegex`.
        let lawful = |c: char| c.is_ascii_alphanumeric() || "+/=_:-".contains(c);
        let key = self.sdk_key.expose();
        if key.is_empty() || !key.chars().all(lawful) {
            let message = "is no SDK key; copy it from the environment's settings in Optimizely";
            faults.push(fault("agent.sdk_key", "invalid_sdk_key", message));
        }
        let filter = self.filter.unwrap_or_else(|| "decision".to_owned());
        let kinds: Vec<&str> = filter.split(',').map(str::trim).collect();
        if !kinds.contains(&"decision") || !kinds.iter().all(|kind| KINDS.contains(kind)) {
            let message = "must be `decision`, or a comma-separated list with it of decision, track and project_config_update";
            faults.push(fault("agent.filter", "invalid_filter", message));
        }
        let filter = kinds.join(",");
        (faults.len() == before).then_some(Agent {
            url,
            sdk_key: self.sdk_key,
            filter,
        })
    }
}

/// How it may be shown.
#[must_use]
pub(super) fn masked(agent: &Agent) -> Value {
    json!({ "url": agent.url, "sdk_key": agent.sdk_key.hint(), "filter": agent.filter })
}

pub(super) fn insert(
    tx: &Transaction<'_>,
    inner: &Inner,
    source: &str,
    agent: &Agent,
) -> Result<(), ChangeError> {
    let sealed = inner
        .ring
        .seal(&inner.random, source, FIELD, agent.sdk_key.expose())
        .map_err(|error| secret_fault(source, error))?;
    tx.execute(
        "INSERT INTO agents (source, url, filter, key_id, sealed) VALUES (?1, ?2, ?3, ?4, ?5)",
        (
            source,
            &agent.url,
            &agent.filter,
            &sealed.key_id,
            &sealed.bytes,
        ),
    )?;
    Ok(())
}

/// A stored Agent with its source.
pub(super) fn opened(row: AgentRow, ring: &KeyRing) -> Result<(String, Agent), PictureError> {
    let sdk_key = ring
        .open(&row.source, FIELD, &row.sealed)
        .map_err(|error| secret_fault(&row.source, error))?;
    let agent = Agent {
        url: row.url,
        sdk_key,
        filter: row.filter,
    };
    Ok((row.source, agent))
}

/// Seals again, with the first key of the ring, what was sealed with another.
pub(super) fn reseal(
    tx: &Transaction<'_>,
    ring: &KeyRing,
    random: &Random,
) -> Result<(), PictureError> {
    let sqlite = |error: rusqlite::Error| PictureError::from(StoreError::from(error));
    let rows: Vec<(String, Sealed)> = {
        let mut query = tx
            .prepare("SELECT source, key_id, sealed FROM agents")
            .map_err(sqlite)?;
        let rows = query
            .query_map([], |row| {
                let sealed = Sealed {
                    key_id: row.get(1)?,
                    bytes: row.get(2)?,
                };
                Ok((row.get(0)?, sealed))
            })
            .map_err(sqlite)?;
        rows.collect::<Result<_, _>>().map_err(sqlite)?
    };
    for (source, sealed) in rows {
        if ring.is_current(&sealed.key_id) {
            continue;
        }
        let again = ring
            .open(&source, FIELD, &sealed)
            .and_then(|key| ring.seal(random, &source, FIELD, key.expose()))
            .map_err(|error| secret_fault(&source, error))?;
        tx.execute(
            "UPDATE agents SET key_id = ?2, sealed = ?3 WHERE source = ?1",
            (&source, &again.key_id, &again.bytes),
        )
        .map_err(sqlite)?;
    }
    Ok(())
}

fn secret_fault(source: &str, error: super::seal::UnsealError) -> PictureError {
    PictureError::Secret {
        integration: source.to_owned(),
        field: FIELD.to_owned(),
        source: error,
    }
}
