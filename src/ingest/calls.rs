//! Event calls: body to events to journal to answer.

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use serde::Serialize;
use std::cell::Cell;
use std::sync::Arc;

use super::auth::Account;
use super::refusal::Refusal;
use super::{Backend, Gate, json};
use crate::clock::Millis;
use crate::event::parse::{Acceptance, Body as Events, Fault};
use crate::event::{Kind, made_message_id};
use crate::journal::Record;
use crate::logbook::Rejected;
use crate::metrics;

/// What a route's body looks like.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// One event; none: its own `type` says which kind.
    Single(Option<Kind>),
    /// `{"batch": […]}`.
    Batch,
    /// Flag decisions: one, `{"batch": […]}`, or an array.
    Decision,
}

/// Room for records is made for so many bytes at a time: each record is a slice of it, and it is given back when all of
/// them are written. A single event would take and give back some of its own, above what allocators are quick with.
const ROOM_BYTES: usize = 32 << 10;

thread_local! {
    /// What is left of the room this thread made last.
    static ROOM: Cell<BytesMut> = Cell::default();
}

/// Takes what is left, if it is enough.
fn room_for(bytes: usize) -> BytesMut {
    let room = ROOM.take();
    if room.capacity() >= bytes {
        return room;
    }
    BytesMut::with_capacity(bytes.max(ROOM_BYTES))
}

/// A request's events, sorted into those to append and those refused.
struct Sorted {
    account: Arc<Account>,
    /// Of the page that posts, when only some may.
    origin: Option<HeaderValue>,
    records: Vec<Record>,
    kinds: [u64; 7],
    refused: Vec<Refused>,
    now_ms: Millis,
}

struct Refused {
    index: usize,
    path: String,
    fault: Fault,
    shown: Bytes,
}

/// One refused event, as the caller is told.
#[derive(Serialize)]
struct RefusedAnswer<'a> {
    index: usize,
    code: &'static str,
    message: &'a str,
    path: &'a str,
}

impl<B: Backend> Gate<B> {
    /// Takes one call. Returns once its events are durable.
    pub(super) async fn post(
        &self,
        shape: Shape,
        parts: &Parts,
        body: Body,
    ) -> Result<Response, Refusal> {
        if self.draining() {
            return Err(Refusal::Draining);
        }
        let account = self.keys.of_headers(&parts.headers)?;
        if super::text(&parts.headers, "x-retry-count").is_some_and(|count| count != "0") {
            self.meters.retried();
        }
        let body = self.held.read(&parts.headers, body, &self.limits).await?;
        let Sorted {
            account,
            origin,
            records,
            kinds,
            refused,
            now_ms,
        } = self.sort(shape, account, &parts.headers, &body)?;
        drop(body);
        let accepted = records.len();
        if accepted > 0 {
            self.backend.append(records).await?;
        }
        for (kind, events) in KINDS.into_iter().zip(kinds) {
            if events > 0 {
                account.accepted(kind, events, now_ms);
            }
        }
        let mut answer = answer(accepted, &refused);
        if let Some(origin) = origin {
            super::for_origin(&mut answer, origin);
        }
        for refused in refused {
            self.log(&account, refused, now_ms);
        }
        Ok(answer)
    }

    fn sort(
        &self,
        shape: Shape,
        account: Option<Arc<Account>>,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Sorted, Refusal> {
        let text =
            std::str::from_utf8(body).map_err(|error| Refusal::NotUtf8(error.valid_up_to()))?;
        let (events, kind) = match shape {
            Shape::Single(kind) => (Events::single(text), kind),
            Shape::Batch => (Events::batch(text, self.limits.batch_events_max), None),
            Shape::Decision => (Events::decisions(text, self.limits.batch_events_max), None),
        };
        let events = events.map_err(|fault| Refusal::of_body(fault, text))?;
        let account = match account {
            Some(account) => account,
            None => self.keys.of_body(events.write_key().as_deref())?,
        };
        let now_ms = self.clock.now_ms();
        let origin = self.page(&account, headers, now_ms)?;
        account.take(events.len(), now_ms)?;
        let mut sorted = Sorted {
            origin,
            records: Vec::with_capacity(events.len()),
            kinds: [0; 7],
            refused: Vec::new(),
            now_ms,
            account,
        };
        let make_id = || self.make_id(now_ms);
        let acceptance = Acceptance {
            source: &sorted.account.source.id,
            received_at_ms: now_ms,
            event_bytes_max: self.limits.event_bytes_max,
            make_id: &make_id,
            rules: &*self.rules,
            admits: sorted.account.permit.admits(),
        };
        let mut room = room_for(text.len() + events.len() * 320);
        for index in 0..events.len() {
            let accepted = match shape {
                Shape::Decision => events.accept_decision(index, &acceptance, &mut room),
                _ => events.accept(index, kind, &acceptance, &mut room),
            };
            match accepted {
                Ok(event) => {
                    if let Some(count) = sorted.kinds.get_mut(event.kind as usize) {
                        *count += 1;
                    }
                    sorted.records.push(Record {
                        fingerprint: self
                            .backend
                            .fingerprint(acceptance.source, &event.message_id),
                        bytes: event.record,
                    });
                }
                Err(fault) => sorted.refused.push(Refused {
                    index,
                    path: events.place(index) + fault.path,
                    fault,
                    shown: events.shown(index, self.limits.rejected_bytes_max),
                }),
            }
        }
        ROOM.set(room);
        Ok(sorted)
    }

    /// Whether the page that posts may use this key; one that may not is shown among the rejected events. For a listed
    /// page, its origin.
    pub(super) fn page(
        &self,
        account: &Account,
        headers: &HeaderMap,
        now_ms: Millis,
    ) -> Result<Option<HeaderValue>, Refusal> {
        account.permit.page(headers).inspect_err(|refusal| {
            let source = &account.source.id;
            metrics::events_rejected(source, refusal.code()).increment(1);
            self.backend.rejected(Rejected {
                at_ms: now_ms,
                source: source.clone(),
                index: 0,
                code: refusal.code(),
                message: refusal.to_string(),
                body: Bytes::new(),
            });
        })
    }

    /// A message id for an event that came without one.
    pub(super) fn make_id(&self, now_ms: Millis) -> uuid::Uuid {
        made_message_id(now_ms, [(self.random)(), (self.random)()])
    }

    fn log(&self, account: &Account, refused: Refused, now_ms: Millis) {
        let source = &account.source.id;
        metrics::events_rejected(source, refused.fault.code).increment(1);
        self.backend.rejected(Rejected {
            at_ms: now_ms,
            source: source.clone(),
            index: u32::try_from(refused.index).unwrap_or(u32::MAX),
            code: refused.fault.code,
            message: refused.fault.message,
            body: refused.shown,
        });
    }
}

/// In the order of their discriminants.
const KINDS: [Kind; 7] = [
    Kind::Track,
    Kind::Identify,
    Kind::Page,
    Kind::Screen,
    Kind::Group,
    Kind::Alias,
    Kind::Decision,
];

/// `{"success":true,"accepted":n,"rejected":[…]}`. Repeated posts count as accepted: they are durable.
fn answer(accepted: usize, refused: &[Refused]) -> Response {
    if refused.is_empty() && accepted == 1 {
        return json(r#"{"success":true,"accepted":1,"rejected":[]}"#);
    }
    let refused: Vec<RefusedAnswer<'_>> = refused
        .iter()
        .map(|refused| RefusedAnswer {
            index: refused.index,
            code: refused.fault.code,
            message: &refused.fault.message,
            path: &refused.path,
        })
        .collect();
    let refused = serde_json::to_string(&refused).unwrap_or_else(|_| "[]".to_owned());
    json(format!(
        r#"{{"success":true,"accepted":{accepted},"rejected":{refused}}}"#
    ))
}
