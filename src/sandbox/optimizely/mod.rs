//! The sandbox's Optimizely: an events endpoint that takes nearly everything, as the real one does, and counts
//! what the real one would quietly leave out; and a datafile host. Pure: request in, answer out.
//!
//! Sources: Event API docs (204 "queued" says nothing about validity; bodies up to 3.5 MB; repeats known by uuid,
//! timestamp and entity id), its OpenAPI document (strict header). What is not published is our choice: 413 for a
//! body over the limit, the shape of strict answers.

pub mod datafiles;
pub mod decided;
pub mod strict;
pub mod tally;
pub mod wire;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::clock::Millis;
use datafiles::Catalog;
use tally::{Refused, Tally};

/// Largest body taken, in bytes (Event API docs: 3.5 MB).
pub const BODY_MAX: usize = 3_500_000;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// JSON, or empty.
    pub body: Bytes,
}

impl Answer {
    fn refused(status: StatusCode, body: &Value) -> Self {
        Self {
            status,
            body: Bytes::from(body.to_string()),
        }
    }
}

/// `POST …/v1/events`. `body` is none when it was over the limit. `tally` runs what it is given on the counts.
pub fn events(
    body: Option<&[u8]>,
    strict: bool,
    remember: bool,
    catalog: &Catalog,
    now_ms: Millis,
    tally: impl FnOnce(&mut dyn FnMut(&mut Tally)),
) -> Answer {
    let Some(body) = body else {
        tally(&mut |tally| tally.refused(Refused::TooLarge));
        return Answer::refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            &json!({"message": format!("Request body exceeds {BODY_MAX} bytes")}),
        );
    };
    if strict && let Some(answer) = strictly(body, catalog) {
        tally(&mut |tally| tally.refused(Refused::Strict));
        return answer;
    }
    if let Ok(batch) = serde_json::from_slice::<wire::Batch<'_>>(body) {
        let facts = tally::facts(&batch, catalog);
        let decided = decided::of_batch(&batch);
        tally(&mut |tally| {
            tally.take(&facts, body.len(), remember, now_ms);
            tally.latest.take(&decided);
        });
        return Answer {
            status: StatusCode::NO_CONTENT,
            body: Bytes::new(),
        };
    }
    match serde_json::from_slice::<&serde_json::value::RawValue>(body) {
        Ok(_) => {
            tally(&mut |tally| tally.unreadable(body.len()));
            Answer {
                status: StatusCode::NO_CONTENT,
                body: Bytes::new(),
            }
        }
        Err(error) => {
            tally(&mut |tally| tally.refused(Refused::Malformed));
            Answer::refused(
                StatusCode::BAD_REQUEST,
                &json!({"message": format!("Malformed JSON: {error}")}),
            )
        }
    }
}

/// The refusal, when there is something to refuse. JSON that cannot be read is left to the common path.
fn strictly(body: &[u8], catalog: &Catalog) -> Option<Answer> {
    let batch: Value = serde_json::from_slice(body).ok()?;
    let faults = strict::faults(&batch, catalog);
    (!faults.is_empty()).then(|| {
        Answer::refused(
            StatusCode::BAD_REQUEST,
            &json!({"message": "The body does not meet all field constraints", "errors": faults}),
        )
    })
}

#[cfg(test)]
mod tests;
