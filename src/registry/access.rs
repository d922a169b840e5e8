//! Who may post and who may administer: sources with their write keys, and admin tokens.
//!
//! A key or token is shown once, when it is made; what is kept is its SHA-256.

use rusqlite::Transaction;
use serde_json::json;

use super::Role;
use super::agents::NewAgent;
use super::audit::{self, Actor, Deed, role_word};
use super::control::{ChangeError, Registry};
use super::draft::{fault, good_name};
use super::permits::SourceSpec;
use super::picture::{Picture, SourceEntry, sha256};
use super::random::Random;
use super::store::StoreError;
use crate::blueprint::FieldFault;
use crate::clock::Millis;
use crate::secret::Secret;

/// Live keys of a source at once: the new one and the one it follows.
const LIVE_KEYS_MAX: usize = 2;

/// Characters of a write key by which people and metrics recognise it.
const PREFIX_CHARS: usize = 8;

impl Registry {
    /// Makes a source and its first key; with an Agent it also listens to that one's decisions. Returns its id and the key, which is shown only now.
    ///
    /// # Errors
    /// When the name or the Agent's address cannot be used or is taken, or the database fails.
    pub async fn create_source(
        &self,
        actor: &Actor,
        spec: SourceSpec,
        agent: Option<NewAgent>,
    ) -> Result<(String, Secret), ChangeError> {
        let name = spec.name.clone();
        let done = self.try_create_source(actor, spec, agent).await;
        self.noted(actor, "source.create", &name, done).await
    }

    async fn try_create_source(
        &self,
        actor: &Actor,
        spec: SourceSpec,
        agent: Option<NewAgent>,
    ) -> Result<(String, Secret), ChangeError> {
        let mut faults = Vec::new();
        let spec = spec.checked(&mut faults);
        let agent = agent.and_then(|agent| agent.checked(&*self.0.checks.urls, &mut faults));
        let _turn = self.0.turn.lock().await;
        self.check_free(&spec.name, "", &mut faults);
        if !faults.is_empty() {
            return Err(ChangeError::Fields(faults));
        }
        let actor = actor.clone();
        self.commit(move |tx, inner| {
            let now_ms = inner.clock.now_ms();
            let key = inner.random.write_key();
            let id = insert_source(tx, &inner.random, &spec.name, spec.rate, now_ms)?;
            put_permits(tx, &id, &spec)?;
            insert_key(tx, &inner.random, &id, &key, "made", "first key", now_ms)?;
            let mut after = spec.shown();
            after["key"] = json!(prefix(&key));
            if let Some(agent) = &agent {
                super::agents::insert(tx, inner, &id, agent)?;
                after["agent"] = super::agents::masked(agent);
            }
            let after = Some(after);
            write(tx, now_ms, &actor, "source.create", &id, None, after)?;
            Ok((id, key))
        })
        .await
    }

    /// Changes a source's name and limits. `change` gets them as they are at that moment.
    ///
    /// # Errors
    /// When there is no such source, something of it cannot be used, or the database fails.
    pub async fn change_source(
        &self,
        actor: &Actor,
        source: &str,
        change: impl FnOnce(&mut SourceSpec) + Send,
    ) -> Result<(), ChangeError> {
        let done = self.try_change_source(actor, source, change).await;
        self.noted(actor, "source.change", source, done).await
    }

    async fn try_change_source(
        &self,
        actor: &Actor,
        source: &str,
        change: impl FnOnce(&mut SourceSpec) + Send,
    ) -> Result<(), ChangeError> {
        let _turn = self.0.turn.lock().await;
        let before = spec_of(&self.known_source(source)?);
        let mut after = before.clone();
        change(&mut after);
        let mut faults = Vec::new();
        let after = after.checked(&mut faults);
        self.check_free(&after.name, source, &mut faults);
        if !faults.is_empty() {
            return Err(ChangeError::Fields(faults));
        }
        let (actor, id) = (actor.clone(), source.to_owned());
        self.commit(move |tx, inner| {
            tx.execute(
                "UPDATE sources SET name = ?2, rate = ?3 WHERE id = ?1",
                (&id, &after.name, after.rate),
            )?;
            put_permits(tx, &id, &after)?;
            let now_ms = inner.clock.now_ms();
            let (before, after) = (Some(before.shown()), Some(after.shown()));
            write(tx, now_ms, &actor, "source.change", &id, before, after)
        })
        .await
    }

    /// A fault when another source than `own` has this name.
    fn check_free(&self, name: &str, own: &str, faults: &mut Vec<FieldFault>) {
        let picture = self.picture();
        let mut others = picture
            .sources
            .iter()
            .filter(|entry| entry.source.id != own);
        if others.any(|entry| entry.source.name == name) {
            let message = format!("there is a source named `{name}` already; choose another name");
            faults.push(fault("name", "duplicate_name", message));
        }
    }

    /// Gives a source a new key. The newest of its keys so far stays live beside it; older ones stop working.
    /// Returns the new key, which is shown only now.
    ///
    /// # Errors
    /// When there is no such source, or the database fails.
    pub async fn rotate_key(
        &self,
        actor: &Actor,
        source: &str,
        label: &str,
    ) -> Result<Secret, ChangeError> {
        let done = self.try_rotate_key(actor, source, label).await;
        self.noted(actor, "source.rotate_key", source, done).await
    }

    async fn try_rotate_key(
        &self,
        actor: &Actor,
        source: &str,
        label: &str,
    ) -> Result<Secret, ChangeError> {
        let _turn = self.0.turn.lock().await;
        let entry = self.known_source(source)?;
        let label = if label.is_empty() {
            "rotated".to_owned()
        } else {
            good_name(label).map_err(|(code, message)| {
                ChangeError::Fields(vec![fault("label", code, message)])
            })?
        };
        let (actor, id) = (actor.clone(), entry.source.id.clone());
        self.commit(move |tx, inner| {
            let now_ms = inner.clock.now_ms();
            let key = inner.random.write_key();
            let stay = LIVE_KEYS_MAX - 1;
            for old in entry.keys.iter().rev().skip(stay) {
                tx.execute("DELETE FROM write_keys WHERE id = ?1", [&old.id])?;
            }
            insert_key(tx, &inner.random, &id, &key, "made", &label, now_ms)?;
            let before = entry.keys.iter().map(|key| &key.prefix).collect::<Vec<_>>();
            write(
                tx,
                now_ms,
                &actor,
                "source.rotate_key",
                &id,
                Some(json!({ "keys": before })),
                Some(json!({ "key": prefix(&key) })),
            )?;
            Ok(key)
        })
        .await
    }

    /// Ends a key: posts with it are refused from now on.
    ///
    /// # Errors
    /// When there is no such key, or the database fails.
    pub async fn revoke_key(
        &self,
        actor: &Actor,
        source: &str,
        key: &str,
    ) -> Result<(), ChangeError> {
        let done = self.try_revoke_key(actor, source, key).await;
        self.noted(actor, "source.revoke_key", key, done).await
    }

    async fn try_revoke_key(
        &self,
        actor: &Actor,
        source: &str,
        key: &str,
    ) -> Result<(), ChangeError> {
        let _turn = self.0.turn.lock().await;
        let entry = self.known_source(source)?;
        let known = entry
            .keys
            .iter()
            .find(|known| known.id == key)
            .cloned()
            .ok_or_else(|| ChangeError::not_found("write key", key))?;
        let actor = actor.clone();
        self.commit(move |tx, inner| {
            tx.execute("DELETE FROM write_keys WHERE id = ?1", [&known.id])?;
            let before = Some(json!({ "key": known.prefix, "label": known.label }));
            write(
                tx,
                inner.clock.now_ms(),
                &actor,
                "source.revoke_key",
                &known.source,
                before,
                None,
            )
        })
        .await
    }

    /// Removes a source and its keys. What it posted stays and is delivered.
    ///
    /// # Errors
    /// When there is none, an integration names it, or the database fails.
    pub async fn delete_source(&self, actor: &Actor, source: &str) -> Result<(), ChangeError> {
        let done = self.try_delete_source(actor, source).await;
        self.noted(actor, "source.delete", source, done).await
    }

    async fn try_delete_source(&self, actor: &Actor, source: &str) -> Result<(), ChangeError> {
        let _turn = self.0.turn.lock().await;
        let entry = self.known_source(source)?;
        let users = users_of(&self.picture(), source);
        if !users.is_empty() {
            return Err(ChangeError::Conflict {
                code: "source_in_use",
                message: format!(
                    "the source is named by {}; take it out of their `sources` first",
                    users.join(", ")
                ),
            });
        }
        let actor = actor.clone();
        self.commit(move |tx, inner| {
            tx.execute("DELETE FROM sources WHERE id = ?1", [&entry.source.id])?;
            let before = Some(spec_of(&entry).shown());
            write(
                tx,
                inner.clock.now_ms(),
                &actor,
                "source.delete",
                &entry.source.id,
                before,
                None,
            )
        })
        .await
    }

    /// Makes an admin token. Returns the whole token, which is shown only now.
    ///
    /// # Errors
    /// When the name cannot be used, or the database fails.
    pub async fn create_token(
        &self,
        actor: &Actor,
        name: &str,
        role: Role,
        expires_at_ms: Option<Millis>,
    ) -> Result<Secret, ChangeError> {
        let done = self
            .try_create_token(actor, name, role, expires_at_ms)
            .await;
        self.noted(actor, "token.create", name, done).await
    }

    async fn try_create_token(
        &self,
        actor: &Actor,
        name: &str,
        role: Role,
        expires_at_ms: Option<Millis>,
    ) -> Result<Secret, ChangeError> {
        let mut faults = Vec::new();
        let name = checked_name(name, &mut faults);
        if expires_at_ms.is_some_and(|at| at <= self.0.clock.now_ms()) {
            faults.push(fault("expires_at", "in_the_past", "is not in the future"));
        }
        if !faults.is_empty() {
            return Err(ChangeError::Fields(faults));
        }
        let actor = actor.clone();
        self.commit(move |tx, inner| {
            let now_ms = inner.clock.now_ms();
            let token = insert_token(tx, &inner.random, &name, role, expires_at_ms, now_ms)?;
            let after = Some(
                json!({ "name": name, "role": role_word(role), "expires_at_ms": expires_at_ms }),
            );
            write(
                tx,
                now_ms,
                &actor,
                "token.create",
                token_id(&token),
                None,
                after,
            )?;
            Ok(token)
        })
        .await
    }

    /// Ends a token; the next request with it is refused.
    ///
    /// # Errors
    /// When there is none that works, or the database fails.
    pub async fn revoke_token(&self, actor: &Actor, id: &str) -> Result<(), ChangeError> {
        let done = self.try_revoke_token(actor, id).await;
        self.noted(actor, "token.revoke", id, done).await
    }

    async fn try_revoke_token(&self, actor: &Actor, id: &str) -> Result<(), ChangeError> {
        let picture = self.picture();
        let entry = picture
            .tokens
            .iter()
            .find(|entry| entry.id == id && entry.revoked_at_ms.is_none())
            .ok_or_else(|| ChangeError::not_found("live token", id))?;
        let before = json!({ "name": entry.name, "role": role_word(entry.role) });
        let (actor, id) = (actor.clone(), id.to_owned());
        self.commit(move |tx, inner| {
            let now_ms = inner.clock.now_ms();
            tx.execute(
                "UPDATE tokens SET revoked_at_ms = ?2 WHERE id = ?1 AND revoked_at_ms IS NULL",
                (&id, now_ms),
            )?;
            write(tx, now_ms, &actor, "token.revoke", &id, Some(before), None)
        })
        .await
    }

    fn known_source(&self, id: &str) -> Result<SourceEntry, ChangeError> {
        self.picture()
            .source(id)
            .cloned()
            .ok_or_else(|| ChangeError::not_found("source", id))
    }
}

/// The open half of a token, which is its id: `adm_<id>`.
#[must_use]
pub(super) fn token_id(token: &Secret) -> &str {
    let text = token.expose();
    text.rfind('_').map_or("", |end| &text[..end])
}

fn checked_name(name: &str, faults: &mut Vec<FieldFault>) -> String {
    good_name(name).unwrap_or_else(|(code, message)| {
        faults.push(fault("name", code, message));
        String::new()
    })
}

fn users_of(picture: &Picture, source: &str) -> Vec<String> {
    picture
        .integrations
        .iter()
        .filter(|integration| {
            integration
                .sources
                .as_ref()
                .is_some_and(|sources| sources.iter().any(|id| id == source))
        })
        .map(|integration| format!("`{}`", integration.name))
        .collect()
}

fn spec_of(entry: &SourceEntry) -> SourceSpec {
    SourceSpec {
        name: entry.source.name.clone(),
        rate: entry.source.rate,
        permits: entry.source.permits.clone(),
    }
}

fn put_permits(tx: &Transaction<'_>, source: &str, spec: &SourceSpec) -> Result<(), ChangeError> {
    match super::permits::column(&spec.permits)? {
        Some(permits) => tx.execute(
            "INSERT INTO source_permits (source, permits) VALUES (?1, ?2) \
             ON CONFLICT (source) DO UPDATE SET permits = excluded.permits",
            (source, permits),
        )?,
        None => tx.execute("DELETE FROM source_permits WHERE source = ?1", [source])?,
    };
    Ok(())
}

pub(super) fn insert_source(
    tx: &Transaction<'_>,
    random: &Random,
    name: &str,
    rate: Option<u32>,
    now_ms: Millis,
) -> Result<String, StoreError> {
    let id = random.id("src");
    tx.execute(
        "INSERT INTO sources (id, name, rate, enabled, created_at_ms) VALUES (?1, ?2, ?3, 1, ?4)",
        (&id, name, rate, now_ms),
    )?;
    Ok(id)
}

pub(super) fn insert_key(
    tx: &Transaction<'_>,
    random: &Random,
    source: &str,
    key: &Secret,
    origin: &str,
    label: &str,
    now_ms: Millis,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO write_keys (id, source, hash, prefix, label, origin, created_at_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (
            random.id("key"),
            source,
            sha256(key.expose()),
            prefix(key),
            label,
            origin,
            now_ms,
        ),
    )?;
    Ok(())
}

pub(super) fn insert_token(
    tx: &Transaction<'_>,
    random: &Random,
    name: &str,
    role: Role,
    expires_at_ms: Option<Millis>,
    now_ms: Millis,
) -> Result<Secret, StoreError> {
    let id = format!("adm_{}", random.token_id());
    let secret = random.token_secret();
    tx.execute(
        "INSERT INTO tokens (id, name, role, hash, origin, created_at_ms, expires_at_ms) \
         VALUES (?1, ?2, ?3, ?4, 'made', ?5, ?6)",
        (
            &id,
            name,
            role_word(role),
            sha256(&secret),
            now_ms,
            expires_at_ms,
        ),
    )?;
    Ok(Secret::new(format!("{id}_{secret}")))
}

/// At most eight characters, and never more than half of a short key.
fn prefix(key: &Secret) -> String {
    let text = key.expose();
    text.chars()
        .take(PREFIX_CHARS.min(text.chars().count() / 2))
        .collect()
}

fn write(
    tx: &Transaction<'_>,
    now_ms: Millis,
    actor: &Actor,
    action: &str,
    object: &str,
    before: Option<serde_json::Value>,
    after: Option<serde_json::Value>,
) -> Result<(), ChangeError> {
    Ok(audit::write(
        tx,
        now_ms,
        &Deed {
            actor,
            action,
            object,
            before,
            after,
            result: "ok",
        },
    )?)
}
