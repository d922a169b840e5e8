//! The registry in memory: read once per change, published whole, never changed in place.
//!
//! [`Picture`] holds all that admins look at; the [`View`] made from it holds what ingest and delivery need.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::audit::{Actor, role_of};
use super::checks::Checks;
use super::seal::{KeyRing, UnsealError};
use super::store::{IntegrationRow, KeyRow, Rows, SecretRow, StoreError, TokenRow};
use super::values::{from_stored, masked};
use super::{Agent, Integration, Pause, Role, Source, Tuning, View};
use crate::blueprint::{Blueprint, Config, Diagnostic, FieldFault, Severity};
use crate::clock::Millis;
use crate::secret::Secret;

/// An integration as installed, whether it can run or not.
#[derive(Debug)]
pub struct Installed {
    /// `int_…`.
    pub id: String,
    /// Vendor.
    pub vendor: String,
    /// Variant of the shipped blueprint it began with.
    pub variant: String,
    /// Name for people.
    pub name: String,
    /// Only events of these sources; none = of all.
    pub sources: Option<Vec<String>>,
    /// Values of the blueprint's fields, secrets included.
    pub config: Config,
    /// How it is delivered to.
    pub tuning: Tuning,
    /// Stopped by an admin.
    pub paused: Option<Pause>,
    /// Revision in use.
    pub blueprint_revision: u32,
    /// Its text.
    pub blueprint_text: String,
    /// Changes with every change of anything above.
    pub version: u64,
    /// When it was installed.
    pub created_at_ms: Millis,
    /// When anything above changed last.
    pub changed_at_ms: Millis,
    /// What runs, or why nothing can: it is left out of the view then, and its events wait.
    pub running: Result<Arc<Integration>, Trouble>,
}

/// Why an installed integration cannot run.
#[derive(Debug, Clone, Default)]
pub struct Trouble {
    /// What the blueprint's check says now.
    pub diagnostics: Vec<Diagnostic>,
    /// What does not fit the config any more.
    pub faults: Vec<FieldFault>,
}

/// A source and its live keys, without the keys themselves.
#[derive(Debug, Clone)]
pub struct SourceEntry {
    /// The source.
    pub source: Arc<Source>,
    /// Oldest first.
    pub keys: Vec<KeyRow>,
    /// The Agent it listens to.
    pub agent: Option<Arc<Agent>>,
}

/// An admin token, without the token itself.
#[derive(Debug, Clone)]
pub struct TokenEntry {
    /// `adm_…`: the open half of the token.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Given by AQUEDUCT_ADMIN_TOKEN.
    pub from_setting: bool,
    /// When it was made.
    pub created_at_ms: Millis,
    /// When it stops working by itself.
    pub expires_at_ms: Option<Millis>,
    /// When it was revoked.
    pub revoked_at_ms: Option<Millis>,
    hash: [u8; 32],
}

/// All of it at one moment.
#[derive(Debug, Default)]
pub struct Picture {
    /// In order of making.
    pub sources: Vec<SourceEntry>,
    /// In order of installation.
    pub integrations: Vec<Arc<Installed>>,
    /// In order of making, revoked ones included.
    pub tokens: Vec<TokenEntry>,
    /// Where alerts are sent, in order of making.
    pub alert_endpoints: Vec<Arc<super::alerts::AlertEndpoint>>,
    /// Ids left half-way by a crash: their feeds are to be removed, then their rows.
    pub leftovers: Vec<String>,
}

/// Why the rows do not make a picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The database failed or holds what this release does not write.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A secret does not open.
    #[error("control.db: secret `{field}` of integration `{integration}`: {source}")]
    Secret {
        /// Whose.
        integration: String,
        /// Which.
        field: String,
        /// Why.
        source: UnsealError,
    },
}

impl Picture {
    /// Makes the picture. What did not change since `before` is taken from there.
    pub(super) fn make(
        rows: Rows,
        before: &Self,
        ring: &KeyRing,
        checks: &Checks,
    ) -> Result<Self, PictureError> {
        let mut keys: HashMap<String, Vec<KeyRow>> = HashMap::new();
        for key in rows.keys {
            keys.entry(key.source.clone()).or_default().push(key);
        }
        let mut agents = HashMap::new();
        for row in rows.agents {
            let (source, agent) = super::agents::opened(row, ring)?;
            agents.insert(source, Arc::new(agent));
        }
        let sources = rows
            .sources
            .into_iter()
            .map(|row| {
                Ok(SourceEntry {
                    keys: keys.remove(&row.id).unwrap_or_default(),
                    agent: agents.remove(&row.id),
                    source: Arc::new(Source {
                        permits: super::permits::of_column(&row.id, row.permits.as_deref())?,
                        id: row.id,
                        name: row.name,
                        rate: row.rate,
                        enabled: row.enabled,
                        created_at_ms: row.created_at_ms,
                    }),
                })
            })
            .collect::<Result<_, StoreError>>()?;
        let mut secrets: HashMap<String, Vec<SecretRow>> = HashMap::new();
        for secret in rows.secrets {
            secrets
                .entry(secret.integration.clone())
                .or_default()
                .push(secret);
        }
        let mut integrations = Vec::new();
        let mut leftovers = Vec::new();
        for row in rows.integrations {
            if row.phase != "live" {
                leftovers.push(row.id);
                continue;
            }
            let same = before
                .integrations
                .iter()
                .find(|old| old.id == row.id && old.version == row.version);
            integrations.push(match same {
                Some(same) => Arc::clone(same),
                None => {
                    let secrets = secrets.remove(&row.id).unwrap_or_default();
                    Arc::new(installed(row, &secrets, ring, checks)?)
                }
            });
        }
        let tokens = rows
            .tokens
            .into_iter()
            .map(token)
            .collect::<Result<_, _>>()?;
        let alert_endpoints = rows
            .alert_endpoints
            .into_iter()
            .map(|row| super::alerts::opened(row, ring).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            sources,
            integrations,
            tokens,
            alert_endpoints,
            leftovers,
        })
    }

    /// What ingest and delivery need of it.
    #[must_use]
    pub fn view(&self, seen: &super::Seen) -> View {
        View {
            seen: seen.clone(),
            sources_by_key: self
                .sources
                .iter()
                .flat_map(|entry| {
                    entry
                        .keys
                        .iter()
                        .map(|key| (key.hash, Arc::clone(&entry.source)))
                })
                .collect(),
            integrations: self
                .integrations
                .iter()
                .filter_map(|installed| installed.running.as_ref().ok().map(Arc::clone))
                .collect(),
            agents: self
                .sources
                .iter()
                .filter_map(|entry| {
                    Some((Arc::clone(&entry.source), Arc::clone(entry.agent.as_ref()?)))
                })
                .collect(),
            idle: self
                .integrations
                .iter()
                .filter(|installed| installed.running.is_err())
                .map(|installed| (installed.id.clone(), installed.tuning.clone()))
                .collect(),
        }
    }

    /// An integration by id.
    #[must_use]
    pub fn integration(&self, id: &str) -> Option<&Arc<Installed>> {
        self.integrations
            .iter()
            .find(|integration| integration.id == id)
    }

    /// An endpoint of alerts by name.
    #[must_use]
    pub fn alert_endpoint(&self, name: &str) -> Option<&Arc<super::alerts::AlertEndpoint>> {
        self.alert_endpoints
            .iter()
            .find(|endpoint| endpoint.name == name)
    }

    /// A source by id.
    #[must_use]
    pub fn source(&self, id: &str) -> Option<&SourceEntry> {
        self.sources.iter().find(|entry| entry.source.id == id)
    }

    /// Who bears this token, if anybody does at `now_ms`. Takes the same time for every wrong secret.
    #[must_use]
    pub fn bearer(&self, token: &str, now_ms: Millis) -> Option<Actor> {
        let split = token
            .strip_prefix("adm_")
            .and_then(|rest| rest.split_once('_'));
        let by_id = split.and_then(|(id, secret)| {
            let entry = self
                .tokens
                .iter()
                .find(|entry| !entry.from_setting && entry.id.strip_prefix("adm_") == Some(id))?;
            entry.is(secret).then_some(entry)
        });
        let entry = by_id.or_else(|| {
            self.tokens
                .iter()
                .find(|entry| entry.from_setting && entry.is(token))
        })?;
        entry.works(now_ms).then(|| Actor {
            id: entry.id.clone(),
            role: entry.role,
        })
    }
}

impl TokenEntry {
    /// Neither revoked nor past its time.
    #[must_use]
    pub fn works(&self, now_ms: Millis) -> bool {
        self.revoked_at_ms.is_none() && self.expires_at_ms.is_none_or(|at| now_ms < at)
    }

    fn is(&self, secret: &str) -> bool {
        sha256(secret).ct_eq(&self.hash).into()
    }
}

impl Installed {
    /// The values of its config that a blueprint asks for.
    #[must_use]
    pub fn config_for(&self, blueprint: &Blueprint) -> Config {
        super::draft::of_blueprint(blueprint, &self.config)
    }

    /// Its config without secrets.
    #[must_use]
    pub fn masked_config(&self) -> serde_json::Map<String, Value> {
        masked(&self.config)
    }
}

/// The hash under which keys and tokens are kept: they have 190 random bits, so a fast hash is enough.
#[must_use]
pub fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn token(row: TokenRow) -> Result<TokenEntry, StoreError> {
    let role = role_of(&row.role).ok_or_else(|| StoreError::Value {
        table: "tokens",
        row: row.id.clone(),
        detail: format!("unknown role `{}`", row.role),
    })?;
    Ok(TokenEntry {
        id: row.id,
        name: row.name,
        role,
        from_setting: row.origin == "setting",
        created_at_ms: row.created_at_ms,
        expires_at_ms: row.expires_at_ms,
        revoked_at_ms: row.revoked_at_ms,
        hash: row.hash,
    })
}

fn installed(
    row: IntegrationRow,
    secrets: &[SecretRow],
    ring: &KeyRing,
    checks: &Checks,
) -> Result<Installed, PictureError> {
    let config = stored_config(&row, secrets, ring)?;
    let sources: Option<Vec<String>> = row
        .sources
        .as_deref()
        .map(|text| json_column(&row.id, text))
        .transpose()?;
    let tuning: Tuning = json_column(&row.id, &row.tuning)?;
    let paused: Option<Pause> = row
        .paused
        .as_deref()
        .map(|text| json_column(&row.id, text))
        .transpose()?;
    let running = bound(&row.text, &config, checks).map(|(blueprint, plan)| {
        Arc::new(Integration {
            id: row.id.clone(),
            vendor: row.vendor.clone(),
            variant: row.variant.clone(),
            name: row.name.clone(),
            sources: sources.clone(),
            config: config.clone(),
            tuning: tuning.clone(),
            paused: paused.clone(),
            blueprint_revision: row.blueprint_revision,
            blueprint_text: row.text.clone(),
            blueprint,
            plan,
            version: row.version,
            created_at_ms: row.created_at_ms,
        })
    });
    Ok(Installed {
        id: row.id,
        vendor: row.vendor,
        variant: row.variant,
        name: row.name,
        sources,
        config,
        tuning,
        paused,
        blueprint_revision: row.blueprint_revision,
        blueprint_text: row.text,
        version: row.version,
        created_at_ms: row.created_at_ms,
        changed_at_ms: row.changed_at_ms,
        running,
    })
}

fn stored_config(
    row: &IntegrationRow,
    secrets: &[SecretRow],
    ring: &KeyRing,
) -> Result<Config, PictureError> {
    let mut unseal_fault = None;
    let stored: Value = json_column(&row.id, &row.config)?;
    let config = from_stored(&stored, |field| {
        let sealed = secrets
            .iter()
            .find(|secret| secret.field == field)
            .ok_or_else(|| format!("secret `{field}` is missing"))?;
        ring.open(&row.id, field, &sealed.sealed).map_err(|source| {
            let message = source.to_string();
            unseal_fault = Some(PictureError::Secret {
                integration: row.id.clone(),
                field: field.to_owned(),
                source,
            });
            message
        })
    });
    config.map_err(|detail| {
        unseal_fault.unwrap_or_else(|| {
            PictureError::Store(StoreError::Value {
                table: "integrations",
                row: row.id.clone(),
                detail,
            })
        })
    })
}

fn json_column<T: serde::de::DeserializeOwned>(id: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Value {
        table: "integrations",
        row: id.to_owned(),
        detail: error.to_string(),
    })
}

/// Checks a stored blueprint again (this release may know more than the one that stored it) and binds it.
fn bound(
    text: &str,
    config: &Config,
    checks: &Checks,
) -> Result<(Arc<Blueprint>, Arc<crate::blueprint::Plan>), Trouble> {
    let checked = crate::blueprint::check(text);
    let Some(blueprint) = checked.blueprint else {
        return Err(Trouble {
            diagnostics: checked
                .diagnostics
                .into_iter()
                .filter(|remark| remark.severity == Severity::Error)
                .collect(),
            faults: Vec::new(),
        });
    };
    let known = super::draft::of_blueprint(&blueprint, config);
    match blueprint.bind(&known, &|url| checks.urls.allows_insecure(url)) {
        Ok(plan) => Ok((Arc::new(blueprint), Arc::new(plan))),
        Err(faults) => Err(Trouble {
            diagnostics: Vec::new(),
            faults,
        }),
    }
}

/// A text that may be shown only now: it is kept nowhere.
#[derive(Debug, Default)]
pub struct Issued {
    /// Write key of the source `default`, when it was made at this start.
    pub write_key: Option<Secret>,
    /// Admin token, when it was made at this start.
    pub admin_token: Option<Secret>,
}
