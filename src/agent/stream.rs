//! One Agent's stream: open, read, keep, open again.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use metrics::{Counter, Gauge};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Parts;
use super::lines::{Line, Lines};
use crate::event::parse::{Acceptance, Body, Fault};
use crate::event::{Kind, made_message_id};
use crate::journal::Record;
use crate::logbook::Rejected;
use crate::metrics as named;
use crate::registry::{Agent, Moment};

/// Time until the head of the stream has to be there.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest line read. A decision may have no more than [`EVENT_BYTES_MAX`]; other notifications may be longer.
const LINE_BYTES_MAX: usize = 256 << 10;

/// Largest decision taken; what `POST /v1/decision` takes too.
const EVENT_BYTES_MAX: usize = 32 << 10;

/// Of a refused notification this much is shown.
const SHOWN_BYTES_MAX: usize = 4 << 10;

/// The wait before the n-th try in a row is drawn between nothing and this, doubled n times …
const WAIT_BASE_MS: u64 = 250;

/// … but never more than this.
const WAIT_CAP_MS: u64 = 60_000;

/// While stopping: how long a journal that refuses is asked again.
const LAST_TRIES: Duration = Duration::from_secs(3);

/// How one stream ended.
enum End {
    /// We hang up.
    Stopped,
    /// Never opened.
    NotOpened(String),
    /// Opened; did it say anything?
    Cut { heard: bool, why: String },
}

/// Listens to one Agent for one source.
pub(super) struct Listener {
    parts: Parts,
    source: String,
    agent: Arc<Agent>,
    stop: CancellationToken,
    connected: Gauge,
    gaps: Counter,
    gap_ms: Counter,
    accepted: Counter,
    seen: Moment,
}

impl Listener {
    pub(super) fn new(
        parts: Parts,
        source: String,
        agent: Arc<Agent>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            connected: named::agent_stream_connected(&source),
            gaps: named::agent_stream_gaps(&source),
            gap_ms: named::agent_stream_gap_ms(&source),
            accepted: named::events_accepted(&source, Kind::Decision.as_str()),
            seen: parts.view.load().seen.of(&source),
            parts,
            source,
            agent,
            stop,
        }
    }

    pub(super) async fn run(self) {
        // All of them are there from the start: an alert on a metric that does not exist is silent.
        self.connected.set(0.0);
        self.gaps.increment(0);
        self.gap_ms.increment(0);
        let mut lost: Option<Instant> = None;
        let mut tries = 0_u32;
        loop {
            let why = match self.session(&mut lost).await {
                End::Stopped => return,
                End::NotOpened(why) => why,
                End::Cut { heard, why } => {
                    self.connected.set(0.0);
                    if heard {
                        tries = 0;
                    }
                    why
                }
            };
            if lost.is_none() {
                lost = Some(Instant::now());
                self.gaps.increment(1);
                tracing::warn!(
                    source = self.source,
                    why,
                    "the Agent's event stream is not heard; decisions it makes now are missed"
                );
            } else {
                tracing::debug!(
                    source = self.source,
                    why,
                    "the Agent's event stream does not open"
                );
            }
            let wait = full_jitter(tries, (self.parts.random)());
            tries = tries.saturating_add(1);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Opens the stream and reads it to its end.
    async fn session(&self, lost: &mut Option<Instant>) -> End {
        let url = format!(
            "{}/v1/notifications/event-stream?filter={}",
            self.agent.url, self.agent.filter
        );
        let headers = [("x-optimizely-sdk-key", &self.agent.sdk_key)];
        let opened = tokio::select! {
            biased;
            () = self.stop.cancelled() => return End::Stopped,
            opened = self.parts.client.open(&url, &headers, OPEN_TIMEOUT) => opened,
        };
        let counted = |result| named::agent_stream_connects(&self.source, result).increment(1);
        let mut stream = match opened {
            Ok(stream) if stream.status == 200 => stream,
            Ok(stream) => {
                counted("refused");
                return End::NotOpened(refused(stream.status));
            }
            Err(error) => {
                counted("failed");
                return End::NotOpened(error.message);
            }
        };
        counted("opened");
        self.connected.set(1.0);
        if let Some(since) = lost.take() {
            let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.gap_ms.increment(ms);
            tracing::info!(
                source = self.source,
                missed_ms = ms,
                "the Agent's event stream is heard again"
            );
        }
        let mut lines = Lines::new(LINE_BYTES_MAX);
        let mut heard = false;
        loop {
            let piece = tokio::select! {
                biased;
                () = self.stop.cancelled() => return End::Stopped,
                piece = stream.piece() => piece,
            };
            let why = match piece {
                Ok(Some(piece)) => {
                    let mut found = Vec::new();
                    lines.take(&piece, |line| found.push(line));
                    heard |= !found.is_empty();
                    let records = self.accept(found);
                    // Nothing more is read before these are durable.
                    if !records.is_empty() {
                        self.append(records).await;
                    }
                    continue;
                }
                Ok(None) => "the Agent ended it".to_owned(),
                Err(error) => error.message,
            };
            return End::Cut { heard, why };
        }
    }

    /// What was read, as records; what is no decision is refused and shown.
    fn accept(&self, lines: Vec<Line>) -> Vec<Record> {
        let now_ms = self.parts.clock.now_ms();
        let make_id = || made_message_id(now_ms, [(self.parts.random)(), (self.parts.random)()]);
        let with = Acceptance {
            source: &self.source,
            received_at_ms: now_ms,
            event_bytes_max: EVENT_BYTES_MAX,
            make_id: &make_id,
            rules: &*self.parts.rules,
            admits: None,
        };
        let mut records = Vec::new();
        for line in lines {
            match line {
                Line::Data(text) if is_other(&text) => {}
                Line::Data(text) => match self.read(&text, &with) {
                    Ok(record) => records.push(record),
                    Err((code, message)) => self.reject(now_ms, code, message, &text),
                },
                Line::TooLong => {
                    let message =
                        format!("a notification of the Agent has more than {LINE_BYTES_MAX} bytes");
                    self.reject(now_ms, "event_too_large", message, "");
                }
            }
        }
        records
    }

    fn read(&self, text: &str, with: &Acceptance<'_>) -> Result<Record, (&'static str, String)> {
        let body = Body::decisions(text, 1).map_err(|fault| ("bad_json", fault.to_string()))?;
        let accepted = body
            .accept_decision(0, with, &mut BytesMut::new())
            .map_err(|Fault { code, message, .. }| (code, message))?;
        Ok(Record {
            fingerprint: self
                .parts
                .journal
                .fingerprint(&self.source, &accepted.message_id),
            bytes: accepted.record,
        })
    }

    /// Appends, and asks again for as long as it takes: there is nobody to send the decisions back to.
    async fn append(&self, records: Vec<Record>) {
        let count = records.len() as u64;
        let mut tries = 0_u32;
        let mut until: Option<Instant> = None;
        loop {
            let error = match self.parts.journal.append(records.clone()).await {
                Ok(_) => {
                    self.accepted.increment(count);
                    self.seen.note(self.parts.clock.now_ms());
                    return;
                }
                Err(error) => error,
            };
            if tries == 0 {
                tracing::warn!(source = self.source, %error, "decisions of an Agent wait for the journal");
            }
            if self.stop.is_cancelled() {
                let until = *until.get_or_insert_with(|| Instant::now() + LAST_TRIES);
                if Instant::now() >= until {
                    tracing::error!(source = self.source, %error, count, "stopped with decisions of an Agent not stored");
                    return;
                }
            }
            let wait = full_jitter(tries.min(3), (self.parts.random)());
            tokio::time::sleep(wait).await;
            tries = tries.saturating_add(1);
        }
    }

    fn reject(&self, at_ms: i64, code: &'static str, message: String, text: &str) {
        named::events_rejected(&self.source, code).increment(1);
        let shown = text.get(..text.floor_char_boundary(SHOWN_BYTES_MAX));
        self.parts.logbook.rejected(Rejected {
            at_ms,
            source: self.source.clone(),
            index: 0,
            code,
            message,
            body: Bytes::copy_from_slice(shown.unwrap_or_default().as_bytes()),
        });
    }
}

/// A notification that is none of a decision (go-sdk `notification/entities.go`; Agent, datafile sync).
fn is_other(text: &str) -> bool {
    let is = |key: &str| text.contains(key);
    !is("\"DecisionInfo\"") && (is("\"EventKey\"") || is("\"project_config_update\""))
}

fn refused(status: u16) -> String {
    let hint = match status {
        401 | 403 => "; check the SDK key",
        404 => "; is `api.enableNotifications` on, and the host among `server.allowedHosts`?",
        _ => "",
    };
    format!("the Agent answers {status}{hint}")
}

/// Anything between nothing and the doubled base, so that listeners cut off together do not come back together.
fn full_jitter(tries: u32, chance: u64) -> Duration {
    let most = WAIT_BASE_MS
        .saturating_mul(1_u64.checked_shl(tries.min(20)).unwrap_or(u64::MAX))
        .min(WAIT_CAP_MS);
    Duration::from_millis(chance % (most + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_drawn_up_to_a_cap() {
        for tries in [0, 1, 8, 31, u32::MAX] {
            let most = full_jitter(
                tries,
                WAIT_BASE_MS
                    .saturating_mul(1 << tries.min(20))
                    .min(WAIT_CAP_MS),
            );
            assert!(
                most.as_millis() >= u128::from(WAIT_BASE_MS)
                    && most.as_millis() <= u128::from(WAIT_CAP_MS)
            );
            assert_eq!(full_jitter(tries, 0), Duration::ZERO);
        }
        assert_eq!(full_jitter(1, 500), Duration::from_millis(500));
        assert_eq!(full_jitter(1, 501), Duration::ZERO);
    }

    #[test]
    fn other_notifications_are_told_apart() {
        assert!(is_other(
            r#"{"Type":"project_config_update","Revision":"7"}"#
        ));
        assert!(is_other(
            r#"{"EventKey":"purchase","UserContext":{"ID":"u"}}"#
        ));
        assert!(!is_other(
            r#"{"Type":"flag","DecisionInfo":{"reasons":["\"EventKey\""]}}"#
        ));
        assert!(
            !is_other(r#"{"Sort":"flag"}"#),
            "what is not known is shown among the refused"
        );
    }
}
