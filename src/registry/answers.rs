//! Answers kept for repeated requests (`Idempotency-Key`): what was asked and what was answered, sealed, for a day.
//! Knows no HTTP beyond a status and a body.
//!
//! A row is written before the request takes effect and completed after it. A row found incomplete therefore belongs
//! to a request under way, or to one whose effect nobody knows because the process ended in between.

use rusqlite::OptionalExtension as _;
use serde_json::{Value, json};

use super::control::{ChangeError, Registry};
use super::seal::{Sealed, UnsealError};
use super::store::StoreError;
use crate::clock::Millis;

/// How long an answer is kept.
pub const KEPT_MS: Millis = 24 * 3_600 * 1_000;

/// The field answers are sealed under.
const FIELD: &str = "answer";

/// What is known of a request that says it may be a repetition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing was: it is written down now, and may take effect.
    New,
    /// The key came with another request.
    Other,
    /// It was answered so.
    Answered(Answer),
    /// It began and was never answered.
    Unfinished,
}

/// An answer as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON text.
    pub body: String,
}

impl Registry {
    /// Looks a request up, and writes it down when it is new. `place` names caller and key, `request` is the hash of
    /// what is asked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_answer(&self, place: &str, request: &str) -> Result<Known, ChangeError> {
        let (place, request) = (place.to_owned(), request.to_owned());
        self.blocking(move |inner| {
            let now_ms = inner.clock.now_ms();
            let fresh = json!({ "request": request }).to_string();
            let fresh = inner
                .ring
                .seal(&inner.random, &place, FIELD, &fresh)
                .map_err(|error| damaged(&place, &error))?;
            inner.change(|tx| {
                tx.execute(
                    "DELETE FROM answers WHERE at_ms <= ?1",
                    [now_ms.saturating_sub(KEPT_MS)],
                )?;
                let kept = tx
                    .query_row(
                        "SELECT key_id, sealed FROM answers WHERE place = ?1",
                        [&place],
                        |row| {
                            Ok(Sealed {
                                key_id: row.get(0)?,
                                bytes: row.get(1)?,
                            })
                        },
                    )
                    .optional()?;
                let Some(kept) = kept else {
                    tx.execute(
                        "INSERT INTO answers (place, at_ms, key_id, sealed) VALUES (?1, ?2, ?3, ?4)",
                        (&place, now_ms, &fresh.key_id, &fresh.bytes),
                    )?;
                    return Ok(Known::New);
                };
                match inner.ring.open(&place, FIELD, &kept) {
                    Ok(text) => Ok(read(text.expose(), &request)),
                    // Its encryption key was taken away: that it happened is all that is known.
                    Err(UnsealError::UnknownKey(_)) => Ok(Known::Unfinished),
                    Err(error) => Err(damaged(&place, &error)),
                }
            })
        })
        .await
    }

    /// Keeps the answer of a request that took effect.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keep_answer(
        &self,
        place: &str,
        request: &str,
        answer: &Answer,
    ) -> Result<(), ChangeError> {
        let place = place.to_owned();
        let text = json!({ "request": request, "status": answer.status, "body": answer.body });
        self.blocking(move |inner| {
            let sealed = inner
                .ring
                .seal(&inner.random, &place, FIELD, &text.to_string())
                .map_err(|error| damaged(&place, &error))?;
            inner.change(|tx| {
                tx.execute(
                    "UPDATE answers SET key_id = ?2, sealed = ?3 WHERE place = ?1",
                    (&place, &sealed.key_id, &sealed.bytes),
                )?;
                Ok(())
            })
        })
        .await
    }

    /// Forgets a request that had no effect: its key is free again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_answer(&self, place: &str) -> Result<(), ChangeError> {
        let place = place.to_owned();
        self.blocking(move |inner| {
            inner.change(|tx| {
                tx.execute("DELETE FROM answers WHERE place = ?1", [&place])?;
                Ok(())
            })
        })
        .await
    }
}

fn read(text: &str, request: &str) -> Known {
    let kept: Value = serde_json::from_str(text).unwrap_or_default();
    if kept["request"] != request {
        return Known::Other;
    }
    let status = kept["status"].as_u64().and_then(|n| u16::try_from(n).ok());
    match (status, kept["body"].as_str()) {
        (Some(status), Some(body)) => Known::Answered(Answer {
            status,
            body: body.to_owned(),
        }),
        _ => Known::Unfinished,
    }
}

fn damaged(place: &str, error: &UnsealError) -> ChangeError {
    ChangeError::Store(StoreError::Value {
        table: "answers",
        row: place.to_owned(),
        detail: error.to_string(),
    })
}
