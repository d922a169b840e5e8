//! The registry itself: opening it, its first start, and how a change is made, written down and published.
//!
//! A change is one transaction (its audit row included), then the new picture is published. Readers hold pictures
//! and views; they never wait for the database.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rusqlite::Transaction;

use super::audit::{self, Actor, AuditFault, AuditRow, Deed};
use super::checks::Checks;
use super::picture::{Issued, Picture, PictureError, sha256};
use super::random::Random;
use super::seal::{KEY_FILE, KeyRing, RingError, Sealed, UnsealError, hex};
use super::store::{DATABASE_FILE, Store, StoreError, StoreOpenError, fact, set_fact};
use super::{Role, SharedView};
use crate::blueprint::{Diagnostic, FieldFault};
use crate::clock::{Millis, SharedClock};
use crate::secret::Secret;

/// Name of the source made at the first start.
const DEFAULT_SOURCE: &str = "default";

/// Keys that the settings give instead of those made at the first start.
#[derive(Debug, Default, Clone)]
pub struct Given {
    /// AQUEDUCT_WRITE_KEY: the source `default` has this key.
    pub write_key: Option<Secret>,
    /// AQUEDUCT_ADMIN_TOKEN: a token with the role admin.
    pub admin_token: Option<Secret>,
}

/// Why the registry did not open. Nothing was changed, except that a first start may have made its key file.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database.
    #[error(transparent)]
    Open(#[from] StoreOpenError),
    /// The key ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The ring does not hold the key the database was sealed with.
    #[error("{path} was sealed with encryption key {wanted}, and the ring holds {ring}; {way_out}")]
    WrongKey {
        /// The database.
        path: PathBuf,
        /// Name of the key.
        wanted: String,
        /// Names of the keys there are.
        ring: String,
        /// What to do.
        way_out: String,
    },
    /// A value does not open although its key is there.
    #[error("{path}: {detail}; restore the file from a backup")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What does not open.
        detail: String,
    },
    /// A setting cannot be used.
    #[error("{key}: {detail}")]
    Setting {
        /// Its name.
        key: &'static str,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a change was not made. Nothing of it is stored.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Fields that cannot be used: all of them.
    #[error("{} field(s) cannot be used", .0.len())]
    Fields(Vec<FieldFault>),
    /// The blueprint does not check.
    #[error("the blueprint does not check")]
    Blueprint(Vec<Diagnostic>),
    /// There is no such thing.
    #[error("there is no {what} `{id}`")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// It does not go together with what is there.
    #[error("{message}")]
    Conflict {
        /// Stable short code.
        code: &'static str,
        /// What and the way out.
        message: String,
    },
    /// The journal did not take part.
    #[error("the journal refused: {0}")]
    Feed(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The change is stored but could not be read back.
    #[error(transparent)]
    Picture(#[from] PictureError),
}

impl ChangeError {
    /// The word for logs, the audit log and API answers.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Fields(_) => "invalid_fields",
            Self::Blueprint(_) => "blueprint_faults",
            Self::NotFound { .. } => "not_found",
            Self::Conflict { code, .. } => code,
            Self::Feed(_) => "journal_unavailable",
            Self::Store(_) | Self::Picture(_) => "store_failed",
        }
    }

    pub(super) fn not_found(what: &'static str, id: &str) -> Self {
        Self::NotFound {
            what,
            id: id.escape_default().to_string(),
        }
    }
}

impl From<rusqlite::Error> for ChangeError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// The registry. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Registry(pub(super) Arc<Inner>);

pub(super) struct Inner {
    store: Mutex<Store>,
    pub(super) ring: KeyRing,
    pub(super) clock: SharedClock,
    pub(super) random: Random,
    pub(super) checks: Checks,
    picture: ArcSwap<Picture>,
    view: SharedView,
    pub(super) seen: super::Seen,
    /// Held by changes of integrations from their last look at the picture to their commit.
    pub(super) turn: tokio::sync::Mutex<()>,
}

impl Registry {
    /// Opens the registry of a data directory; makes it at the first start. Call [`Registry::finish_interrupted`]
    /// before serving.
    ///
    /// # Errors
    /// When the database, the key ring or a setting cannot be used; each says the way out.
    pub fn open(
        data_dir: &Path,
        ring: KeyRing,
        given: &Given,
        clock: SharedClock,
        random: Random,
        checks: Checks,
    ) -> Result<(Self, Issued), OpenError> {
        check_given("AQUEDUCT_WRITE_KEY", given.write_key.as_ref(), true)?;
        check_given("AQUEDUCT_ADMIN_TOKEN", given.admin_token.as_ref(), false)?;
        let now_ms = clock.now_ms();
        let mut store = Store::open(data_dir, now_ms)?;
        let issued = store.change(|tx| {
            check_ring(tx, &ring, &random).map_err(|error| name_key(data_dir, &ring, error))?;
            reseal(tx, &ring, &random).map_err(|error| name_key(data_dir, &ring, error))?;
            start(tx, given, &random, now_ms)
        })?;
        let picture = Picture::make(store.rows()?, &Picture::default(), &ring, &checks)
            .map_err(|error| name_key(data_dir, &ring, error))?;
        for installed in &picture.integrations {
            if let Err(trouble) = &installed.running {
                tracing::error!(
                    integration = installed.id,
                    diagnostics = trouble.diagnostics.len(),
                    faults = trouble.faults.len(),
                    "integration paused: its blueprint no longer checks; see GET /v1/admin/integrations/{}",
                    installed.id
                );
            }
        }
        let seen = super::seen::read(store.reader())?;
        let view = Arc::new(ArcSwap::from_pointee(picture.view(&seen)));
        let registry = Self(Arc::new(Inner {
            store: Mutex::new(store),
            ring,
            clock,
            random,
            checks,
            picture: ArcSwap::from_pointee(picture),
            view,
            seen,
            turn: tokio::sync::Mutex::new(()),
        }));
        Ok((registry, issued))
    }

    /// What ingest and delivery read; it changes with every change of the registry.
    #[must_use]
    pub fn view(&self) -> SharedView {
        Arc::clone(&self.0.view)
    }

    /// Everything admins look at, as it is now.
    #[must_use]
    pub fn picture(&self) -> Arc<Picture> {
        self.0.picture.load_full()
    }

    /// What was handed in at opening.
    #[must_use]
    pub fn checks(&self) -> &Checks {
        &self.0.checks
    }

    /// Lets nobody change anything while the guard lives: for tests of two changes at once.
    #[cfg(test)]
    pub(crate) async fn hold_changes(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.turn.lock().await
    }

    /// Takes over what another process (`aqueduct token`) changed, if anything.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn refresh(&self) -> Result<(), ChangeError> {
        self.blocking(|inner| {
            let mut store = inner.store.lock();
            if store.changed_elsewhere()? {
                inner.publish(&store)?;
            }
            Ok(())
        })
        .await
    }

    /// Audit rows, newest first, below `before` if given.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditRow>, ChangeError> {
        self.blocking(move |inner| Ok(audit::read(inner.store.lock().reader(), before, limit)?))
            .await
    }

    /// Walks the whole audit log.
    ///
    /// # Errors
    /// The outer one when the database fails; the inner one names the first row that is not as it was written.
    pub async fn verify_audit(&self) -> Result<Result<u64, AuditFault>, ChangeError> {
        self.blocking(|inner| Ok(audit::verify(inner.store.lock().reader())?))
            .await
    }

    /// Writes down a deed that changes nothing here: a test, a replay, a refused request.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note(
        &self,
        actor: &Actor,
        action: &str,
        object: &str,
        after: Option<serde_json::Value>,
        result: &str,
    ) -> Result<(), ChangeError> {
        let (actor, action, object, result) = (
            actor.clone(),
            action.to_owned(),
            object.to_owned(),
            result.to_owned(),
        );
        self.blocking(move |inner| {
            let now_ms = inner.clock.now_ms();
            Ok(inner.store.lock().change(|tx| {
                audit::write(
                    tx,
                    now_ms,
                    &Deed {
                        actor: &actor,
                        action: &action,
                        object: &object,
                        before: None,
                        after,
                        result: &result,
                    },
                )
            })?)
        })
        .await
    }

    /// Writes down a change that was not made, and hands its error on.
    pub(super) async fn noted<T>(
        &self,
        actor: &Actor,
        action: &str,
        object: &str,
        done: Result<T, ChangeError>,
    ) -> Result<T, ChangeError> {
        if let Err(error) = &done
            && let Err(second) = self.note(actor, action, object, None, error.code()).await
        {
            tracing::error!(error = %second, action, "a failed change could not be written to the audit log");
        }
        done
    }

    /// Runs a change in one transaction and publishes the new picture.
    pub(super) async fn commit<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Transaction<'_>, &Inner) -> Result<T, ChangeError> + Send + 'static,
    ) -> Result<T, ChangeError> {
        self.blocking(move |inner| {
            let mut store = inner.store.lock();
            let value = store.change(|tx| change(tx, inner))?;
            inner.publish(&store)?;
            Ok(value)
        })
        .await
    }

    /// Writes what no picture shows, in one transaction.
    pub(super) async fn record<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Transaction<'_>, &Inner) -> Result<T, ChangeError> + Send + 'static,
    ) -> Result<T, ChangeError> {
        self.blocking(move |inner| inner.store.lock().change(|tx| write(tx, inner)))
            .await
    }

    /// Reads from the database, off the async threads.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ChangeError> {
        self.blocking(move |inner| Ok(read(&inner.store.lock())?))
            .await
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, ChangeError> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .unwrap_or_else(|error| {
                Err(ChangeError::Store(StoreError::Value {
                    table: "-",
                    row: String::new(),
                    detail: error.to_string(),
                }))
            })
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

impl Inner {
    /// One transaction that changes nothing of the picture.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, ChangeError>,
    ) -> Result<T, ChangeError> {
        self.store.lock().change(change)
    }

    /// Called with the store locked, so that pictures are published in the order of their commits.
    fn publish(&self, store: &Store) -> Result<(), ChangeError> {
        let picture = Picture::make(
            store.rows()?,
            &self.picture.load(),
            &self.ring,
            &self.checks,
        )?;
        self.view.store(Arc::new(picture.view(&self.seen)));
        self.picture.store(Arc::new(picture));
        Ok(())
    }
}

/// A key from the settings must be usable in a header as it is.
fn check_given(
    key: &'static str,
    given: Option<&Secret>,
    is_write_key: bool,
) -> Result<(), OpenError> {
    let Some(given) = given else { return Ok(()) };
    let text = given.expose();
    let detail = if text.is_empty() {
        "is empty; leave it unset, or give a value"
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "holds a blank or a character other than ASCII; a header could not carry it"
    } else if is_write_key && text.contains(':') {
        "holds a colon, which HTTP Basic cannot carry in a user name"
    } else {
        return Ok(());
    };
    Err(OpenError::Setting { key, detail })
}

/// A text sealed at the first start proves later that the ring still holds its key, before anything else is read.
fn check_ring(tx: &Transaction<'_>, ring: &KeyRing, random: &Random) -> Result<(), PictureError> {
    const FACT: &str = "seal_check";
    if let Some(kept) = fact(tx, FACT)? {
        let sealed = read_fact(&kept).ok_or(UnsealError::Damaged);
        let opened = sealed.and_then(|sealed| {
            ring.open("registry", FACT, &sealed)?;
            Ok(ring.is_current(&sealed.key_id))
        });
        match opened {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(source) => {
                return Err(PictureError::Secret {
                    integration: "registry".to_owned(),
                    field: FACT.to_owned(),
                    source,
                });
            }
        }
    }
    let sealed = ring
        .seal(random, "registry", FACT, "aqueduct")
        .map_err(|source| PictureError::Secret {
            integration: "registry".to_owned(),
            field: FACT.to_owned(),
            source,
        })?;
    Ok(set_fact(
        tx,
        FACT,
        &format!("{}:{}", sealed.key_id, hex(&sealed.bytes)),
    )?)
}

fn read_fact(kept: &str) -> Option<Sealed> {
    let (key_id, digits) = kept.split_once(':')?;
    let bytes = (0..digits.len() / 2)
        .map(|place| u8::from_str_radix(digits.get(place * 2..place * 2 + 2)?, 16).ok())
        .collect::<Option<Vec<u8>>>()?;
    Some(Sealed {
        key_id: key_id.to_owned(),
        bytes,
    })
}

/// Seals again, with the first key, what was sealed with another: after one start the old key can be taken away.
fn reseal(tx: &Transaction<'_>, ring: &KeyRing, random: &Random) -> Result<(), PictureError> {
    super::agents::reseal(tx, ring, random)?;
    super::alerts::reseal(tx, ring, random)?;
    let rows = {
        let mut query = tx
            .prepare("SELECT integration, field, key_id, sealed FROM secrets")
            .map_err(StoreError::from)?;
        let rows = query
            .query_map([], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, String>(1)?,
                    Sealed {
                        key_id: row.get(2)?,
                        bytes: row.get(3)?,
                    },
                ))
            })
            .map_err(StoreError::from)?;
        rows.collect::<Result<Vec<_>, _>>()
            .map_err(StoreError::from)?
    };
    for (integration, field, sealed) in rows {
        if ring.is_current(&sealed.key_id) {
            continue;
        }
        let again = ring
            .open(&integration, &field, &sealed)
            .and_then(|text| ring.seal(random, &integration, &field, text.expose()))
            .map_err(|source| PictureError::Secret {
                integration: integration.clone(),
                field: field.clone(),
                source,
            })?;
        tx.execute(
            "UPDATE secrets SET key_id = ?3, sealed = ?4 WHERE integration = ?1 AND field = ?2",
            (&integration, &field, &again.key_id, &again.bytes),
        )
        .map_err(StoreError::from)?;
    }
    Ok(())
}

/// Says which key is wanted, which there are, and where the wanted one may be.
fn name_key(data_dir: &Path, ring: &KeyRing, error: PictureError) -> OpenError {
    let path = data_dir.join(DATABASE_FILE);
    match error {
        PictureError::Store(error) => OpenError::Store(error),
        PictureError::Secret {
            source: UnsealError::UnknownKey(wanted),
            ..
        } => {
            let file = data_dir.join(KEY_FILE);
            let in_file = std::fs::read_to_string(&file)
                .ok()
                .and_then(|text| KeyRing::parse(text.trim()).ok())
                .is_some_and(|kept| kept.is_current(&wanted));
            let way_out = if in_file {
                format!(
                    "{} holds that key: add its content to AQUEDUCT_ENCRYPTION_KEYS after your new key (the first encrypts, all decrypt)",
                    file.display()
                )
            } else {
                "give it in AQUEDUCT_ENCRYPTION_KEYS too, after your new key (comma-separated; the first encrypts, all decrypt)"
                    .to_owned()
            };
            OpenError::WrongKey {
                path,
                wanted,
                ring: ring.ids().collect::<Vec<_>>().join(", "),
                way_out,
            }
        }
        error @ PictureError::Secret { .. } => OpenError::Damaged {
            path,
            detail: error.to_string(),
        },
    }
}

/// Makes what a first start makes, and gives the keys of the settings their place.
fn start(
    tx: &Transaction<'_>,
    given: &Given,
    random: &Random,
    now_ms: Millis,
) -> Result<Issued, OpenError> {
    let is_first = fact(tx, "first_start")?.is_none();
    let mut issued = Issued::default();
    if let Some(key) = &given.write_key {
        keep_write_key(tx, key, random, now_ms)?;
    } else if is_first {
        let key = random.write_key();
        let source = super::access::insert_source(tx, random, DEFAULT_SOURCE, None, now_ms)?;
        super::access::insert_key(tx, random, &source, &key, "made", "first start", now_ms)?;
        issued.write_key = Some(key);
    }
    if let Some(token) = &given.admin_token {
        keep_admin_token(tx, token, now_ms)?;
    } else if is_first {
        issued.admin_token = Some(super::access::insert_token(
            tx,
            random,
            "first start",
            Role::Admin,
            None,
            now_ms,
        )?);
    }
    if is_first {
        set_fact(tx, "first_start", &now_ms.to_string())?;
        audit::write(
            tx,
            now_ms,
            &Deed {
                actor: &Actor::startup(),
                action: "registry.first_start",
                object: "registry",
                before: None,
                after: None,
                result: "ok",
            },
        )?;
    }
    Ok(issued)
}

/// The source `default` has the key of the setting, also when the setting changed since the last start.
fn keep_write_key(
    tx: &Transaction<'_>,
    key: &Secret,
    random: &Random,
    now_ms: Millis,
) -> Result<(), OpenError> {
    use rusqlite::OptionalExtension as _;
    let hash = sha256(key.expose());
    let owner: Option<(String, String)> = tx
        .query_row(
            "SELECT s.name, k.origin FROM write_keys k JOIN sources s ON s.id = k.source WHERE k.hash = ?1",
            [hash],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()
        .map_err(StoreError::from)?;
    match owner {
        Some((name, _)) if name == DEFAULT_SOURCE => return Ok(()),
        Some(_) => {
            return Err(OpenError::Setting {
                key: "AQUEDUCT_WRITE_KEY",
                detail: "is the key of another source already; a key belongs to one source",
            });
        }
        None => {}
    }
    let source: Option<String> = tx
        .query_row(
            "SELECT id FROM sources WHERE name = ?1",
            [DEFAULT_SOURCE],
            |row| row.get(0),
        )
        .optional()
        .map_err(StoreError::from)?;
    let source = match source {
        Some(source) => source,
        None => super::access::insert_source(tx, random, DEFAULT_SOURCE, None, now_ms)?,
    };
    tx.execute("DELETE FROM write_keys WHERE origin = 'setting'", [])
        .map_err(StoreError::from)?;
    super::access::insert_key(
        tx,
        random,
        &source,
        key,
        "setting",
        "AQUEDUCT_WRITE_KEY",
        now_ms,
    )?;
    note_setting(tx, "source.key_from_setting", &source, now_ms)
}

/// There is one admin token with the value of the setting, also when the setting changed since the last start.
fn keep_admin_token(tx: &Transaction<'_>, token: &Secret, now_ms: Millis) -> Result<(), OpenError> {
    let hash = sha256(token.expose());
    let same: i64 = tx
        .query_row(
            "SELECT count(*) FROM tokens WHERE origin = 'setting' AND hash = ?1 AND revoked_at_ms IS NULL",
            [hash],
            |row| row.get(0),
        )
        .map_err(StoreError::from)?;
    if same > 0 {
        return Ok(());
    }
    tx.execute(
        "INSERT INTO tokens (id, name, role, hash, origin, created_at_ms) \
         VALUES ('adm_setting', 'AQUEDUCT_ADMIN_TOKEN', 'admin', ?1, 'setting', ?2) \
         ON CONFLICT (id) DO UPDATE SET hash = excluded.hash, created_at_ms = excluded.created_at_ms, revoked_at_ms = NULL",
        (hash, now_ms),
    )
    .map_err(StoreError::from)?;
    note_setting(tx, "token.from_setting", "adm_setting", now_ms)
}

fn note_setting(
    tx: &Transaction<'_>,
    action: &str,
    object: &str,
    now_ms: Millis,
) -> Result<(), OpenError> {
    Ok(audit::write(
        tx,
        now_ms,
        &Deed {
            actor: &Actor::startup(),
            action,
            object,
            before: None,
            after: None,
            result: "ok",
        },
    )?)
}
