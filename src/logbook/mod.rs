//! The bounded logs people look at: every attempt made at a vendor, and every event refused at the door.
//!
//! Kept in `attempts.db` (not synced: losing its end in a power cut loses no event), bounded by age and bytes.
//! Writers never wait: when the log cannot keep up, bodies are left out first, then rows, and both are counted.

use bytes::Bytes;

use crate::clock::Millis;

/// One request made at a vendor and what came back.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The integration's id.
    pub integration: String,
    /// Name of the request in the blueprint.
    pub request: String,
    /// When it was sent.
    pub at_ms: Millis,
    /// How long it took.
    pub took_ms: u32,
    /// 1 for the first.
    pub attempt: u32,
    /// `batch`, `replay`, `hold`, `test` or `probe`: why it was made.
    pub trigger: &'static str,
    /// Numbers of the records in it (first and last; those in between that are in it are in `seqs`).
    pub seqs: Vec<u64>,
    /// Where it went, without secrets.
    pub url: String,
    /// Method.
    pub method: String,
    /// Body sent.
    pub request_body: Bytes,
    /// Status, none when there was no answer.
    pub status: Option<u16>,
    /// The answer's body, capped; or the kind of failure in words.
    pub response_body: Bytes,
    /// `delivered`, `retry`, `bisect`, `reject`, `pause`.
    pub verdict: &'static str,
    /// Class of failure when there was no answer: `timeout`, `connect`, `dns`, `tls`, `blocked`, `reset`.
    pub error: Option<String>,
}

/// One event refused at the door.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// When.
    pub at_ms: Millis,
    /// The source's id.
    pub source: String,
    /// Place in its batch.
    pub index: u32,
    /// Stable code.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The event as posted, capped.
    pub body: Bytes,
}

/// The logs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logbook {}

#[expect(unused_variables, clippy::todo, missing_docs, reason = "skeleton")]
impl Logbook {
    pub fn attempt(&self, attempt: Attempt) {
        todo!()
    }
    pub fn rejected(&self, rejected: Rejected) {
        todo!()
    }
}
