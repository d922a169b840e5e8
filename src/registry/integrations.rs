//! Installing, changing and removing integrations, and the revisions of their blueprints.
//!
//! An install is checked whole, stored as `installing`, given its journal feed, and only then made `live` and
//! published. A removal goes the other way. What a crash leaves half-way is undone at the next start.

use std::sync::Arc;

use rusqlite::Transaction;
use serde_json::{Map, Value, json};

use super::audit::{self, Actor, Deed};
use super::control::{ChangeError, Inner, Registry};
use super::draft::{self, Draft, DraftFault, fault};
use super::picture::Installed;
use super::store::RevisionRow;
use super::values::{to_seal, to_stored};
use super::{Integration, Pause};
use crate::blueprint::{Config, FieldFault};

/// Longest note on a revision, in characters.
const NOTE_CHARS_MAX: usize = 500;

/// A change that was made, and what should be looked at all the same.
#[derive(Debug)]
pub struct Changed {
    /// As it is now.
    pub integration: Arc<Installed>,
    /// E.g. that the datafile could not be read just now.
    pub warnings: Vec<FieldFault>,
}

/// An integration that is not installed, for trying out what somebody entered.
#[derive(Debug)]
pub struct Rehearsal {
    /// As it would be.
    pub integration: Integration,
    /// The documents its tables are read from, by table; those that could not be read are missing.
    pub documents: Vec<(String, Value)>,
}

impl Registry {
    /// Installs an integration of `vendor` from the body of an install.
    ///
    /// # Errors
    /// All bad fields at once, an unknown vendor, or a failing journal or database; nothing is installed then.
    pub async fn install(
        &self,
        actor: &Actor,
        vendor: &str,
        body: &Map<String, Value>,
    ) -> Result<Changed, ChangeError> {
        let done = self.try_install(actor, vendor, body).await;
        self.noted(actor, "integration.install", vendor, done).await
    }

    async fn try_install(
        &self,
        actor: &Actor,
        vendor: &str,
        body: &Map<String, Value>,
    ) -> Result<Changed, ChangeError> {
        let check = || {
            draft::install(vendor, body, &self.picture(), &self.0.checks)
                .map_err(|error| draft_error(error, vendor))
        };
        let warnings = check()?
            .check_documents(vendor, &self.0.checks)
            .await
            .map_err(ChangeError::Fields)?;
        let _turn = self.0.turn.lock().await;
        // Looked at again: the names in use may have changed while the document was read.
        let draft = check()?;
        let id = self.0.random.id("int");
        let row = (id.clone(), vendor.to_owned(), actor.clone());
        self.commit(move |tx, inner| insert(tx, inner, &row.0, &row.1, &row.2, &draft))
            .await?;
        if let Err(detail) = self.0.checks.feeds.open(&id).await {
            self.drop_row(&id).await?;
            return Err(ChangeError::Feed(detail));
        }
        self.set_phase(&id, "live").await?;
        let integration = self.known(&id)?;
        let after = describe(&integration);
        self.note(actor, "integration.install", &id, Some(after), "ok")
            .await?;
        Ok(Changed {
            integration,
            warnings,
        })
    }

    /// Checks the body of an install like an install, and makes what it would make without storing anything, for a test
    /// before it. A name may be missing.
    ///
    /// # Errors
    /// All bad fields at once, or an unknown vendor.
    pub async fn rehearse(
        &self,
        vendor: &str,
        body: &Map<String, Value>,
    ) -> Result<Rehearsal, ChangeError> {
        let mut body = body.clone();
        // Whether the name is good and free shows at the install; a test needs none.
        body.insert("name".to_owned(), json!(self.0.random.id("rehearsal")));
        let draft = draft::install(vendor, &body, &self.picture(), &self.0.checks)
            .map_err(|error| draft_error(error, vendor))?;
        let documents = draft
            .documents(vendor, &self.0.checks)
            .await
            .map_err(ChangeError::Fields)?;
        let blueprint = crate::blueprint::check(&draft.text)
            .blueprint
            .ok_or_else(|| draft_error(DraftFault::Blueprint(Vec::new()), vendor))?;
        Ok(Rehearsal {
            integration: Integration {
                id: draft.name.clone(),
                vendor: vendor.to_owned(),
                variant: draft.variant,
                name: draft.name,
                sources: draft.sources,
                config: draft.config,
                tuning: draft.tuning,
                paused: None,
                blueprint_revision: 0,
                blueprint_text: draft.text,
                blueprint: Arc::new(blueprint),
                plan: Arc::new(draft.plan),
                version: 0,
                created_at_ms: self.0.clock.now_ms(),
            },
            documents,
        })
    }

    /// Changes name, config, sources or settings; what is left out stays.
    ///
    /// # Errors
    /// All bad fields at once, no such integration, or a failing database; nothing is changed then.
    pub async fn change(
        &self,
        actor: &Actor,
        id: &str,
        body: &Map<String, Value>,
    ) -> Result<Changed, ChangeError> {
        let done = self.try_change(actor, id, body).await;
        self.noted(actor, "integration.change", id, done).await
    }

    async fn try_change(
        &self,
        actor: &Actor,
        id: &str,
        body: &Map<String, Value>,
    ) -> Result<Changed, ChangeError> {
        let current = self.known(id)?;
        let draft = draft::change(&current, body, &self.picture(), &self.0.checks)
            .map_err(|error| draft_error(error, &current.vendor))?;
        let mut warnings = Vec::new();
        if draft.config != current.config {
            warnings = draft
                .check_documents(&current.vendor, &self.0.checks)
                .await
                .map_err(ChangeError::Fields)?;
        }
        let _turn = self.0.turn.lock().await;
        self.unchanged_since(&current)?;
        // The name may have been taken while the document was read.
        draft::change(&current, body, &self.picture(), &self.0.checks)
            .map_err(|error| draft_error(error, &current.vendor))?;
        let integration = self
            .update(actor, "integration.change", current, move |tx, inner, now| {
                tx.execute(
                    "UPDATE integrations SET name = ?2, sources = ?3, config = ?4, tuning = ?5 WHERE id = ?1",
                    (
                        &now.id,
                        &draft.name,
                        draft.sources.as_ref().map(|sources| json!(sources).to_string()),
                        to_stored(&draft.config).to_string(),
                        json!(draft.tuning).to_string(),
                    ),
                )?;
                write_secrets(tx, inner, &now.id, &draft.config)
            })
            .await?;
        Ok(Changed {
            integration,
            warnings,
        })
    }

    /// Stops an integration; its events wait.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    pub async fn pause(
        &self,
        actor: &Actor,
        id: &str,
        reason: &str,
    ) -> Result<Arc<Installed>, ChangeError> {
        let pause = Pause {
            reason: reason.trim().chars().take(NOTE_CHARS_MAX).collect(),
            since_ms: self.0.clock.now_ms(),
        };
        let done = self
            .set_pause(actor, "integration.pause", id, Some(pause))
            .await;
        self.noted(actor, "integration.pause", id, done).await
    }

    /// Lets an integration go on.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    pub async fn resume(&self, actor: &Actor, id: &str) -> Result<Arc<Installed>, ChangeError> {
        let done = self.set_pause(actor, "integration.resume", id, None).await;
        self.noted(actor, "integration.resume", id, done).await
    }

    async fn set_pause(
        &self,
        actor: &Actor,
        action: &'static str,
        id: &str,
        pause: Option<Pause>,
    ) -> Result<Arc<Installed>, ChangeError> {
        let _turn = self.0.turn.lock().await;
        let current = self.known(id)?;
        self.update(actor, action, current, move |tx, _, now| {
            tx.execute(
                "UPDATE integrations SET paused = ?2 WHERE id = ?1",
                (&now.id, pause.map(|pause| json!(pause).to_string())),
            )?;
            Ok(())
        })
        .await
    }

    /// Takes an integration out of the view, removes its feed, then its row.
    ///
    /// # Errors
    /// When there is none, or the journal or the database fails.
    pub async fn remove(&self, actor: &Actor, id: &str) -> Result<(), ChangeError> {
        let done = self.try_remove(actor, id).await;
        self.noted(actor, "integration.remove", id, done).await
    }

    async fn try_remove(&self, actor: &Actor, id: &str) -> Result<(), ChangeError> {
        let _turn = self.0.turn.lock().await;
        let current = self.known(id)?;
        self.set_phase(id, "removing").await?;
        self.note(
            actor,
            "integration.remove",
            id,
            Some(json!({ "name": current.name, "vendor": current.vendor })),
            "ok",
        )
        .await?;
        self.0
            .checks
            .feeds
            .remove(id)
            .await
            .map_err(ChangeError::Feed)?;
        self.drop_row(id).await
    }

    /// Undoes installs and finishes removals that a crash cut short. Returns how many.
    ///
    /// # Errors
    /// When the journal or the database fails.
    pub async fn finish_interrupted(&self) -> Result<usize, ChangeError> {
        let leftovers = self.picture().leftovers.clone();
        for id in &leftovers {
            self.0
                .checks
                .feeds
                .remove(id)
                .await
                .map_err(ChangeError::Feed)?;
            self.drop_row(id).await?;
        }
        Ok(leftovers.len())
    }

    /// Puts a new revision of its blueprint under an integration.
    ///
    /// # Errors
    /// When the blueprint does not check, does not fit vendor or config, or the database fails; the running one stays.
    pub async fn put_blueprint(
        &self,
        actor: &Actor,
        id: &str,
        text: &str,
        note: &str,
    ) -> Result<Changed, ChangeError> {
        let done = self
            .try_put_blueprint(actor, "blueprint.put", id, text, note)
            .await;
        self.noted(actor, "blueprint.put", id, done).await
    }

    /// Puts an earlier revision's text under an integration, as a new revision.
    ///
    /// # Errors
    /// As [`Registry::put_blueprint`], or when there is no such revision.
    pub async fn roll_back(
        &self,
        actor: &Actor,
        id: &str,
        to: u32,
        note: &str,
    ) -> Result<Changed, ChangeError> {
        let done = self.try_roll_back(actor, id, to, note).await;
        self.noted(actor, "blueprint.rollback", id, done).await
    }

    async fn try_roll_back(
        &self,
        actor: &Actor,
        id: &str,
        to: u32,
        note: &str,
    ) -> Result<Changed, ChangeError> {
        let revision = self.revision(id, to).await?;
        let note = if note.is_empty() {
            format!("back to revision {to}")
        } else {
            format!("back to revision {to}: {note}")
        };
        self.try_put_blueprint(actor, "blueprint.rollback", id, &revision.text, &note)
            .await
    }

    async fn try_put_blueprint(
        &self,
        actor: &Actor,
        action: &'static str,
        id: &str,
        text: &str,
        note: &str,
    ) -> Result<Changed, ChangeError> {
        let current = self.known(id)?;
        let check = || {
            draft::with_blueprint(&current, text, &self.0.checks)
                .map_err(|error| draft_error(error, &current.vendor))
        };
        let draft = check()?;
        let warnings = draft
            .check_documents(&current.vendor, &self.0.checks)
            .await
            .map_err(ChangeError::Fields)?;
        let _turn = self.0.turn.lock().await;
        self.unchanged_since(&current)?;
        let note: String = note.chars().take(NOTE_CHARS_MAX).collect();
        let author = actor.id.clone();
        let integration = self
            .update(
                actor,
                action,
                Arc::clone(&current),
                move |tx, inner, now| {
                    let number: u32 = tx.query_row(
                        "SELECT max(number) + 1 FROM revisions WHERE integration = ?1",
                        [&now.id],
                        |row| row.get(0),
                    )?;
                    insert_revision(tx, inner, &now.id, number, &draft.text, &author, &note)?;
                    tx.execute(
                    "UPDATE integrations SET blueprint_revision = ?2, config = ?3 WHERE id = ?1",
                    (&now.id, number, to_stored(&draft.config).to_string()),
                )?;
                    write_secrets(tx, inner, &now.id, &draft.config)
                },
            )
            .await?;
        Ok(Changed {
            integration,
            warnings,
        })
    }

    /// The revisions of an integration's blueprint, newest first, below `before` if given.
    ///
    /// # Errors
    /// When there is no such integration, or the database fails.
    pub async fn revisions(
        &self,
        id: &str,
        before: Option<u32>,
        limit: usize,
    ) -> Result<Vec<RevisionRow>, ChangeError> {
        let id = self.known(id)?.id.clone();
        self.read(move |store| store.revisions(&id, before, limit))
            .await
    }

    /// One revision.
    ///
    /// # Errors
    /// When there is no such integration or revision, or the database fails.
    pub async fn revision(&self, id: &str, number: u32) -> Result<RevisionRow, ChangeError> {
        let id = self.known(id)?.id.clone();
        self.read(move |store| store.revision(&id, number))
            .await?
            .ok_or_else(|| ChangeError::not_found("revision", &number.to_string()))
    }

    fn known(&self, id: &str) -> Result<Arc<Installed>, ChangeError> {
        self.picture()
            .integration(id)
            .cloned()
            .ok_or_else(|| ChangeError::not_found("integration", id))
    }

    fn unchanged_since(&self, seen: &Installed) -> Result<(), ChangeError> {
        if self.known(&seen.id)?.version == seen.version {
            return Ok(());
        }
        Err(ChangeError::Conflict {
            code: "changed_meanwhile",
            message:
                "the integration was changed by somebody else meanwhile; read it and try again"
                    .to_owned(),
        })
    }

    /// Changes a live row: version and audit row included.
    async fn update(
        &self,
        actor: &Actor,
        action: &'static str,
        current: Arc<Installed>,
        change: impl FnOnce(&Transaction<'_>, &Inner, &Installed) -> Result<(), ChangeError>
        + Send
        + 'static,
    ) -> Result<Arc<Installed>, ChangeError> {
        let (actor, id) = (actor.clone(), current.id.clone());
        let before = describe(&current);
        self.commit(move |tx, inner| {
            change(tx, inner, &current)?;
            let now_ms = inner.clock.now_ms();
            tx.execute(
                "UPDATE integrations SET version = version + 1, changed_at_ms = ?2 WHERE id = ?1",
                (&current.id, now_ms),
            )?;
            let after = described_row(tx, &current.id, &before)?;
            let deed = Deed {
                actor: &actor,
                action,
                object: &current.id,
                before: Some(before),
                after: Some(after),
                result: "ok",
            };
            Ok(audit::write(tx, now_ms, &deed)?)
        })
        .await?;
        self.known(&id)
    }

    async fn set_phase(&self, id: &str, phase: &'static str) -> Result<(), ChangeError> {
        let id = id.to_owned();
        self.commit(move |tx, _| {
            tx.execute(
                "UPDATE integrations SET phase = ?2 WHERE id = ?1",
                (&id, phase),
            )?;
            Ok(())
        })
        .await
    }

    async fn drop_row(&self, id: &str) -> Result<(), ChangeError> {
        let id = id.to_owned();
        self.commit(move |tx, _| {
            tx.execute("DELETE FROM integrations WHERE id = ?1", [&id])?;
            Ok(())
        })
        .await
    }
}

/// What the audit log says of an integration: everything but secrets and the blueprint's text.
fn describe(integration: &Installed) -> Value {
    json!({
        "name": integration.name,
        "vendor": integration.vendor,
        "variant": integration.variant,
        "sources": integration.sources,
        "config": integration.masked_config(),
        "settings": integration.tuning,
        "paused": integration.paused,
        "blueprint_revision": integration.blueprint_revision,
    })
}

/// The same of a row just changed. Secrets are told by "set" alone: their hints stand in `before`.
fn described_row(tx: &Transaction<'_>, id: &str, before: &Value) -> Result<Value, ChangeError> {
    let (name, sources, config, tuning, paused, revision) = tx.query_row(
        "SELECT name, sources, config, tuning, paused, blueprint_revision FROM integrations WHERE id = ?1",
        [id],
        |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, Option<String>>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, String>(3)?,
                row.get::<_, Option<String>>(4)?,
                row.get::<_, u32>(5)?,
            ))
        },
    )?;
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    Ok(json!({
        "name": name,
        "vendor": before.get("vendor"),
        "variant": before.get("variant"),
        "sources": sources.as_deref().map(read),
        "config": read(&config),
        "settings": read(&tuning),
        "paused": paused.as_deref().map(read),
        "blueprint_revision": revision,
    }))
}

fn draft_error(error: DraftFault, vendor: &str) -> ChangeError {
    match error {
        DraftFault::UnknownVendor => ChangeError::not_found("catalog entry", vendor),
        DraftFault::Blueprint(diagnostics) => ChangeError::Blueprint(diagnostics),
        DraftFault::Fields(faults) => ChangeError::Fields(faults),
    }
}

fn insert(
    tx: &Transaction<'_>,
    inner: &Inner,
    id: &str,
    vendor: &str,
    actor: &Actor,
    draft: &Draft,
) -> Result<(), ChangeError> {
    let now_ms = inner.clock.now_ms();
    tx.execute(
        "INSERT INTO integrations (id, phase, vendor, variant, name, sources, config, tuning, paused, \
         blueprint_revision, version, created_at_ms, changed_at_ms) \
         VALUES (?1, 'installing', ?2, ?3, ?4, ?5, ?6, ?7, NULL, 1, 1, ?8, ?8)",
        (
            id,
            vendor,
            &draft.variant,
            &draft.name,
            draft.sources.as_ref().map(|sources| json!(sources).to_string()),
            to_stored(&draft.config).to_string(),
            json!(draft.tuning).to_string(),
            now_ms,
        ),
    )?;
    write_secrets(tx, inner, id, &draft.config)?;
    let note = format!("shipped: {vendor}/{}", draft.variant);
    insert_revision(tx, inner, id, 1, &draft.text, &actor.id, &note)
}

fn insert_revision(
    tx: &Transaction<'_>,
    inner: &Inner,
    id: &str,
    number: u32,
    text: &str,
    author: &str,
    note: &str,
) -> Result<(), ChangeError> {
    tx.execute(
        "INSERT INTO revisions (integration, number, text, author, note, created_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (id, number, text, author, note, inner.clock.now_ms()),
    )?;
    Ok(())
}

/// Seals the config's secrets in place of those there were.
fn write_secrets(
    tx: &Transaction<'_>,
    inner: &Inner,
    id: &str,
    config: &Config,
) -> Result<(), ChangeError> {
    tx.execute("DELETE FROM secrets WHERE integration = ?1", [id])?;
    for (field, text) in to_seal(config) {
        let sealed = inner
            .ring
            .seal(&inner.random, id, field, text)
            .map_err(|_| {
                ChangeError::Fields(vec![fault(
                    format!("config.{field}"),
                    "too_long",
                    "is too long to be kept",
                )])
            })?;
        tx.execute(
            "INSERT INTO secrets (integration, field, key_id, sealed) VALUES (?1, ?2, ?3, ?4)",
            (id, field, sealed.key_id, sealed.bytes),
        )?;
    }
    Ok(())
}
