//! Events as they are accepted: the newest ones as a list, and the live debugger as server-sent events.
//!
//! Both read the journal's tail. A subscriber holds no queue: it reads when its connection takes more, and when it
//! falls too far behind it is told how many it missed and goes on at the tail, so a slow browser costs nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as Message, Sse};
use futures_util::Stream;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Admin;
use super::extract::Params;
use super::page::{Page, limit_of, number_of, rfc3339};
use super::problem::{Problem, ProblemBody};
use crate::event::Event;
use crate::journal::{Entry, Seq};
use crate::registry::audit::Actor;

/// Live streams at once.
pub(super) const STREAMS_MAX: usize = 32;

/// Something is sent at least this often, so that proxies and browsers know the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Rest between two reads: bounds what a subscriber can make us read.
const REST: Duration = Duration::from_millis(50);

/// Bytes of events read at a time.
const READ_BYTES: usize = 512 << 10;

/// Events sent per read; what else it found is counted as passed over.
const SEND_MAX: usize = 100;

/// A subscriber further behind than this goes on at the tail.
const BEHIND_MAX: u64 = 10_000;

/// Events given again on request (`last`), or after `Last-Event-ID`.
const AGAIN_MAX: u64 = 500;

/// Events looked through for one page of the list.
const LOOK_MAX: u64 = 5_000;

/// … and bytes of them.
const LOOK_BYTES: usize = 8 << 20;

/// An accepted event.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct AcceptedView {
    /// Number in the journal; the id of its message in the live stream.
    seq: String,
    accepted_at: String,
    message_id: String,
    /// Id of the source.
    source: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The event's name, the page's, or the flag's key.
    name: Option<String>,
    user_id: Option<String>,
    anonymous_id: Option<String>,
    /// As accepted, in canonical form.
    #[schema(value_type = Object)]
    event: Value,
}

/// Which events; all conditions hold together.
#[derive(Debug, Default, Clone, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LiveParams {
    /// Id of the source.
    source: Option<String>,
    /// `track`, `identify`, `page`, `screen`, `group`, `alias` or `decision`.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Its name holds this, capitals or not.
    name: Option<String>,
    /// Its `userId` or `anonymousId` is this.
    user: Option<String>,
    /// So many of the newest events come first, 500 at most.
    last: Option<u64>,
}

/// Which of the newest events; all conditions hold together.
#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RecentParams {
    /// Id of the source.
    source: Option<String>,
    /// `track`, `identify`, `page`, `screen`, `group`, `alias` or `decision`.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Its name holds this, capitals or not.
    name: Option<String>,
    /// Its `userId` or `anonymousId` is this.
    user: Option<String>,
    /// Rows in one answer, 1 to 100.
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl AcceptedView {
    fn of(entry: &Entry, wanted: &LiveParams) -> Option<Self> {
        let event = Event::decode(&entry.bytes).ok()?;
        let text = |key: &str| event.field(key).and_then(Value::as_str).map(str::to_owned);
        let name = text("event").or_else(|| text("name")).or_else(|| {
            let decision = event.field("decision")?;
            Some(decision.get("flagKey")?.as_str()?.to_owned())
        });
        let (user_id, anonymous_id) = (text("userId"), text("anonymousId"));
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        let named = wanted.name.as_ref().is_none_or(|part| {
            name.as_ref()
                .is_some_and(|name| name.to_lowercase().contains(&part.to_lowercase()))
        });
        let whose = wanted.user.as_ref().is_none_or(|user| {
            user_id.as_ref() == Some(user) || anonymous_id.as_ref() == Some(user)
        });
        if !(named
            && whose
            && is(&wanted.source, &event.source)
            && is(&wanted.kind, event.kind.as_str()))
        {
            return None;
        }
        Some(Self {
            seq: entry.seq.to_string(),
            accepted_at: rfc3339(entry.at_ms),
            message_id: event.message_id,
            source: event.source,
            kind: event.kind.as_str(),
            name,
            user_id,
            anonymous_id,
            event: Value::Object(event.fields),
        })
    }
}

/// Lists the newest accepted events, newest first. Looks through the newest 5,000 before the cursor only.
#[utoipa::path(
    get, path = "/events", tag = "events",
    params(RecentParams),
    responses((status = 200, body = Page<AcceptedView>), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn recent(
    State(admin): State<Admin>,
    Params(params): Params<RecentParams>,
) -> Result<Json<Page<AcceptedView>>, Problem> {
    let limit = limit_of(params.limit)?;
    let end = *admin.journal().end().borrow();
    let before = number_of::<Seq>(params.cursor.as_deref())?.map_or(end, |seq| seq.min(end));
    let wanted = LiveParams {
        source: params.source,
        kind: params.kind,
        name: params.name,
        user: params.user,
        last: None,
    };
    let mut rows = VecDeque::new();
    let mut from = before;
    let floor = before.saturating_sub(LOOK_MAX);
    let mut bytes = 0;
    // Backwards in steps that grow: mostly the first step is enough.
    let mut step = u64::try_from(limit + 1).unwrap_or(LOOK_MAX);
    while from > floor && rows.len() <= limit && bytes < LOOK_BYTES {
        let upto = from;
        from = from.saturating_sub(step).max(floor);
        step = (step * 4).min(1_000);
        let mut found = Vec::new();
        let mut at = from;
        while at < upto {
            let chunk = admin.journal().read(at, READ_BYTES).await?;
            bytes += chunk
                .entries
                .iter()
                .map(|entry| entry.bytes.len())
                .sum::<usize>();
            if chunk.next <= at {
                break;
            }
            at = chunk.next;
            let within = chunk.entries.iter().filter(|entry| entry.seq < upto);
            found.extend(within.filter_map(|entry| AcceptedView::of(entry, &wanted)));
        }
        rows.extend(found.into_iter().rev());
    }
    Ok(Json(Page::of(rows.into(), limit, |row: &AcceptedView| {
        row.seq.clone()
    })))
}

/// The live debugger: server-sent events. Each message is `event: accepted` with an accepted event as its data and
/// the event's number as its id; `event: passed` tells `{"events":n}` that were passed over because there were too many; a
/// comment comes every 15 seconds. `Last-Event-ID` goes on after that event.
#[utoipa::path(
    get, path = "/events/live", tag = "events",
    params(LiveParams, ("Last-Event-ID" = Option<String>, Header, description = "Id of the last message seen")),
    responses((status = 200, body = AcceptedView, content_type = "text/event-stream"), (status = 503, description = "Too many live streams are open"), (status = "default", body = ProblemBody, content_type = "application/problem+json")),
    extensions(("x-minimum-role" = json!("viewer")))
)]
pub(super) async fn live(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    headers: HeaderMap,
    Params(params): Params<LiveParams>,
) -> Result<Sse<impl Stream<Item = Result<Message, Infallible>>>, Problem> {
    if let Some(last) = params.last.filter(|last| *last > AGAIN_MAX) {
        return Err(Problem::field(
            "last",
            "out_of_range",
            format!("is {last}; it must be at most {AGAIN_MAX}"),
        ));
    }
    let seen: Option<Seq> = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok());
    let Ok(permit) = admin.streams().try_acquire_owned() else {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_streams",
            format!("{STREAMS_MAX} live streams are open already; close one, or try again later"),
        ));
    };
    let end = admin.journal().end();
    let now = *end.borrow();
    let next = match seen {
        Some(seen) => (seen.saturating_add(1)).clamp(now.saturating_sub(AGAIN_MAX), now),
        None => now.saturating_sub(params.last.unwrap_or(0)),
    };
    let subscriber = Subscriber {
        admin,
        actor,
        wanted: params,
        end,
        next,
        // Sent at once: some proxies hold an answer back until its body begins.
        ready: VecDeque::from([Message::default()
            .comment("listening")
            .retry(Duration::from_secs(2))]),
        _permit: permit,
    };
    Ok(Sse::new(futures_util::stream::unfold(
        subscriber,
        async |mut subscriber| {
            let message = subscriber.message().await?;
            Some((Ok(message), subscriber))
        },
    )))
}

/// One open stream.
struct Subscriber {
    admin: Admin,
    actor: Actor,
    wanted: LiveParams,
    end: watch::Receiver<Seq>,
    next: Seq,
    ready: VecDeque<Message>,
    _permit: OwnedSemaphorePermit,
}

impl Subscriber {
    /// The next message; none when the stream ends: the token works no more, or the journal is closed.
    async fn message(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(message);
            }
            if !self.may_listen().await {
                return None;
            }
            if self.next >= *self.end.borrow_and_update() {
                match tokio::time::timeout(HEARTBEAT, self.end.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return None,
                    Err(_) => return Some(Message::default().comment("still here")),
                }
            }
            self.read().await?;
            tokio::time::sleep(REST).await;
        }
    }

    async fn may_listen(&self) -> bool {
        let refreshed = self.admin.registry().refresh().await;
        let now_ms = self.admin.now_ms();
        refreshed.is_ok()
            && self
                .admin
                .registry()
                .picture()
                .tokens
                .iter()
                .any(|token| token.id == self.actor.id && token.works(now_ms))
    }

    async fn read(&mut self) -> Option<()> {
        let end = *self.end.borrow();
        let mut passed = 0;
        if end.saturating_sub(self.next) > BEHIND_MAX {
            passed = end - self.next - AGAIN_MAX;
            self.next = end - AGAIN_MAX;
        }
        let chunk = self
            .admin
            .journal()
            .read(self.next, READ_BYTES)
            .await
            .ok()?;
        self.next = chunk.next.max(self.next);
        for entry in &chunk.entries {
            let Some(view) = AcceptedView::of(entry, &self.wanted) else {
                continue;
            };
            if self.ready.len() >= SEND_MAX {
                passed += 1;
                continue;
            }
            let message = Message::default()
                .event("accepted")
                .id(view.seq.clone())
                .json_data(&view);
            self.ready.extend(message.ok());
        }
        if passed > 0 {
            let note = Message::default()
                .event("passed")
                .json_data(serde_json::json!({ "events": passed }));
            self.ready.extend(note.ok());
        }
        Some(())
    }
}
