//! What is remembered of replays: who asked for which dead letters, and how many. The journal knows the rest.

use rusqlite::OptionalExtension as _;
use serde_json::{Value, json};

use super::audit::{self, Actor, Deed};
use super::control::{ChangeError, Registry};
use crate::clock::Millis;

/// A replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayRow {
    /// `rep_…`.
    pub id: String,
    /// What was asked for, as JSON text.
    pub filter: String,
    /// Dead letters it took.
    pub matched: u64,
    /// How many went back when it was cancelled; none when it was not.
    pub cancelled: Option<u64>,
    /// When it began.
    pub created_at_ms: Millis,
}

impl Registry {
    /// Writes down a replay about to begin. Returns its id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_replay(
        &self,
        actor: &Actor,
        filter: Value,
        matched: u64,
    ) -> Result<String, ChangeError> {
        let actor = actor.clone();
        self.commit(move |tx, inner| {
            let now_ms = inner.clock.now_ms();
            let id = inner.random.id("rep");
            tx.execute(
                "INSERT INTO replays (id, filter, matched, created_at_ms) VALUES (?1, ?2, ?3, ?4)",
                (&id, filter.to_string(), whole(matched), now_ms),
            )?;
            let deed = Deed {
                actor: &actor,
                action: "replay.begin",
                object: &id,
                before: None,
                after: Some(json!({ "filter": filter, "matched": matched })),
                result: "ok",
            };
            audit::write(tx, now_ms, &deed)?;
            Ok(id)
        })
        .await
    }

    /// Writes down how many dead letters a replay took in the end.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    pub async fn replay_moved(&self, id: &str, moved: u64) -> Result<ReplayRow, ChangeError> {
        let key = id.to_owned();
        self.commit(move |tx, _| {
            tx.execute(
                "UPDATE replays SET matched = ?2 WHERE id = ?1",
                (&key, whole(moved)),
            )?;
            Ok(())
        })
        .await?;
        self.replay(id).await
    }

    /// Writes down that a replay was called back, and how many went back.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    pub async fn replay_cancelled(
        &self,
        actor: &Actor,
        id: &str,
        back: u64,
    ) -> Result<ReplayRow, ChangeError> {
        let (actor, key) = (actor.clone(), id.to_owned());
        self.commit(move |tx, inner| {
            tx.execute(
                "UPDATE replays SET cancelled = coalesce(cancelled, 0) + ?2 WHERE id = ?1",
                (&key, whole(back)),
            )?;
            let deed = Deed {
                actor: &actor,
                action: "replay.cancel",
                object: &key,
                before: None,
                after: Some(json!({ "put_back": back })),
                result: "ok",
            };
            Ok(audit::write(tx, inner.clock.now_ms(), &deed)?)
        })
        .await?;
        self.replay(id).await
    }

    /// One replay.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    pub async fn replay(&self, id: &str) -> Result<ReplayRow, ChangeError> {
        let key = id.to_owned();
        let row = self
            .read(move |store| {
                Ok(store
                    .reader()
                    .query_row(
                        "SELECT id, filter, matched, cancelled, created_at_ms FROM replays WHERE id = ?1",
                        [&key],
                        |row| {
                            Ok(ReplayRow {
                                id: row.get(0)?,
                                filter: row.get(1)?,
                                matched: row.get::<_, i64>(2)?.unsigned_abs(),
                                cancelled: row.get::<_, Option<i64>>(3)?.map(i64::unsigned_abs),
                                created_at_ms: row.get(4)?,
                            })
                        },
                    )
                    .optional()?)
            })
            .await?;
        row.ok_or_else(|| ChangeError::not_found("replay", id))
    }
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
