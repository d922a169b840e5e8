//! The tokens of a data directory without opening the rest of the registry: for the command line, which has neither
//! the encryption key nor a journal.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::Role;
use super::access::{insert_token, token_id};
use super::audit::{self, Actor, Deed, role_word};
use super::draft::good_name;
use super::random::Random;
use super::store::{DATABASE_FILE, Store, StoreError, StoreOpenError, TokenRow};
use crate::clock::SharedClock;
use crate::secret::Secret;

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No gateway ran here yet.
    #[error(
        "there is no {} yet; start the gateway once with this data directory (it makes the first token), or give another one with --data-dir",
        .0.display()
    )]
    NoRegistry(PathBuf),
    /// The database cannot be used.
    #[error(transparent)]
    Open(#[from] StoreOpenError),
    /// The name cannot be used.
    #[error("the name {0}")]
    Name(String),
    /// No such token.
    #[error("there is no live token `{0}`; `aqueduct token list` shows them")]
    Unknown(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The tokens of a data directory.
#[derive(Debug)]
pub struct TokenStore {
    store: Store,
    clock: SharedClock,
}

impl TokenStore {
    /// Opens them; makes nothing.
    ///
    /// # Errors
    /// When there is no registry, or it cannot be used.
    pub fn open(data_dir: &Path, clock: &SharedClock) -> Result<Self, TokenError> {
        let path = data_dir.join(DATABASE_FILE);
        if !path.exists() {
            return Err(TokenError::NoRegistry(path));
        }
        Ok(Self {
            store: Store::open(data_dir, clock.now_ms())?,
            clock: SharedClock::clone(clock),
        })
    }

    /// Makes a token; it is shown only now.
    ///
    /// # Errors
    /// When the name cannot be used, or the database fails.
    pub fn create(
        &mut self,
        name: &str,
        role: Role,
        random: &Random,
    ) -> Result<Secret, TokenError> {
        let name = good_name(name).map_err(|(_, message)| TokenError::Name(message))?;
        let now_ms = self.clock.now_ms();
        Ok(self.store.change(|tx| {
            let token = insert_token(tx, random, &name, role, None, now_ms)?;
            let deed = Deed {
                actor: &Actor::cli(),
                action: "token.create",
                object: token_id(&token),
                before: None,
                after: Some(json!({ "name": name, "role": role_word(role) })),
                result: "ok",
            };
            audit::write(tx, now_ms, &deed)?;
            Ok::<_, StoreError>(token)
        })?)
    }

    /// All tokens, revoked ones included.
    ///
    /// # Errors
    /// When the database fails.
    pub fn list(&self) -> Result<Vec<TokenRow>, TokenError> {
        Ok(self.store.rows()?.tokens)
    }

    /// Ends a token.
    ///
    /// # Errors
    /// When there is none that works, or the database fails.
    pub fn revoke(&mut self, id: &str) -> Result<(), TokenError> {
        let now_ms = self.clock.now_ms();
        self.store.change(|tx| {
            let ended = tx
                .execute(
                    "UPDATE tokens SET revoked_at_ms = ?2 WHERE id = ?1 AND revoked_at_ms IS NULL",
                    (id, now_ms),
                )
                .map_err(StoreError::from)?;
            if ended == 0 {
                return Err(TokenError::Unknown(id.escape_default().to_string()));
            }
            let deed = Deed {
                actor: &Actor::cli(),
                action: "token.revoke",
                object: id,
                before: None,
                after: None,
                result: "ok",
            };
            Ok(audit::write(tx, now_ms, &deed)?)
        })
    }
}
