//! Sends the notices that wait: one endpoint after its own pace, oldest first, with delivery's waits and gates.
//!
//! A notice stays in the registry's database until it was taken or given up, so an attempt cut short by a crash is made
//! again, under the same id.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{EndpointStatus, Parts, Shared, notice};
use crate::blueprint::{Reply, Request, Verdict, common_verdict};
use crate::clock::Millis;
use crate::delivery::gate::Gate;
use crate::delivery::retry::Backoff;
use crate::metrics;
use crate::registry::ChangeError;
use crate::registry::alert_log::NoticeRow;
use crate::registry::alerts::AlertEndpoint;
use crate::secret::Secret;
use crate::vendor::http::{Answer, SendError, SendErrorKind};

/// Time for one attempt (the specification's advice: 15 to 30 seconds).
const TIMEOUT: Duration = Duration::from_secs(15);

/// Waits between attempts.
const BACKOFF: Backoff = Backoff {
    base_ms: 2_000,
    cap_ms: 10 * 60_000,
};

/// A notice nobody took for so long is given up.
const RETRY_FOR_MS: Millis = 3 * 24 * 3_600_000;

/// When an attempt's end cannot be written down, the next one waits so long.
const UNWRITTEN_WAIT_MS: Millis = 30_000;

/// At least this often it is looked whether something is due.
const LOOK_EVERY_MS: Millis = 5_000;

/// One endpoint's sending.
struct Line {
    gate: Gate,
    busy: bool,
}

/// How an attempt ended.
struct Tried {
    notice: NoticeRow,
    result: Result<Answer, SendError>,
}

/// Sends until `stop`. What is under way then is cut off, and made again by the next process.
pub(super) async fn run(parts: Arc<Parts>, shared: Arc<Shared>, stop: CancellationToken) {
    let mut lines: HashMap<String, Line> = HashMap::new();
    let mut attempts: JoinSet<Tried> = JoinSet::new();
    loop {
        let wake_ms = match start(&parts, &shared, &mut lines, &mut attempts).await {
            Ok(wake_ms) => wake_ms,
            Err(error) => {
                tracing::warn!(%error, "alert notices cannot be read; trying again");
                LOOK_EVERY_MS
            }
        };
        let wait =
            Duration::from_millis(u64::try_from(wake_ms.clamp(1, LOOK_EVERY_MS)).unwrap_or(1));
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.wake.notified() => {}
            () = tokio::time::sleep(wait) => {}
            Some(done) = attempts.join_next(), if !attempts.is_empty() => {
                if let Ok(tried) = done {
                    let name = tried.notice.endpoint.clone();
                    if let Err(error) = settle(&parts, &shared, &mut lines, tried).await {
                        tracing::warn!(%error, endpoint = name, "an alert notice's attempt was not written down; it is sent again");
                        // It is still due: without a wait it would be sent again and again.
                        if let Some(line) = lines.get_mut(&name) {
                            line.gate.failed(parts.clock.now_ms(), UNWRITTEN_WAIT_MS, true);
                        }
                    }
                    shared.ended.notify_waiters();
                }
            }
        }
    }
}

/// Starts every attempt that is due. Returns in how many milliseconds the next one is.
async fn start(
    parts: &Arc<Parts>,
    shared: &Shared,
    lines: &mut HashMap<String, Line>,
    attempts: &mut JoinSet<Tried>,
) -> Result<Millis, ChangeError> {
    let now_ms = parts.clock.now_ms();
    let picture = parts.registry.picture();
    lines.retain(|name, _| picture.alert_endpoint(name).is_some());
    shared
        .status
        .lock()
        .retain(|name, _| picture.alert_endpoint(name).is_some());
    let poked = std::mem::take(&mut *shared.poked.lock());
    let mut wake_ms = LOOK_EVERY_MS;
    for notice in parts.registry.next_notices().await? {
        let Some(endpoint) = picture.alert_endpoint(&notice.endpoint) else {
            continue;
        };
        let line = lines.entry(endpoint.name.clone()).or_insert_with(|| Line {
            gate: Gate::new(),
            busy: false,
        });
        let poked = poked.contains(&endpoint.name);
        if poked {
            line.gate.resume(now_ms);
        }
        let due = poked || notice.next_ms <= now_ms;
        if line.busy || !due || !line.gate.admits(now_ms, 0) {
            let at_ms = line
                .gate
                .wakes_ms()
                .unwrap_or(notice.next_ms)
                .max(notice.next_ms);
            if !line.busy {
                wake_ms = wake_ms.min((at_ms - now_ms).max(1));
            }
            continue;
        }
        line.busy = true;
        line.gate.sent();
        let (parts, endpoint) = (Arc::clone(parts), Arc::clone(endpoint));
        attempts.spawn(async move { attempt(&parts, &endpoint, notice).await });
    }
    Ok(wake_ms)
}

async fn attempt(parts: &Parts, endpoint: &AlertEndpoint, notice: NoticeRow) -> Tried {
    let now_ms = parts.clock.now_ms();
    let timestamp_s = now_ms.div_euclid(1_000);
    let old = endpoint.old_secret.as_ref();
    let old = old
        .filter(|(_, until_ms)| now_ms < *until_ms)
        .map(|(old, _)| old);
    let secrets: Vec<&Secret> = std::iter::once(&endpoint.secret).chain(old).collect();
    let result = match notice::signatures(&secrets, &notice.id, timestamp_s, &notice.body) {
        Some(signature) => {
            let request = request(endpoint, &notice, timestamp_s, signature);
            parts.client.send(&request, TIMEOUT).await
        }
        None => Err(SendError {
            kind: SendErrorKind::Malformed,
            message: "its signing secret is not one; rotate it".to_owned(),
            took: Duration::ZERO,
        }),
    };
    Tried { notice, result }
}

fn request(
    endpoint: &AlertEndpoint,
    notice: &NoticeRow,
    timestamp_s: i64,
    signature: String,
) -> Request {
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("webhook-id", notice.id.clone()),
        ("webhook-timestamp", timestamp_s.to_string()),
        ("webhook-signature", signature),
    ];
    Request {
        name: "alert".to_owned(),
        method: "POST".to_owned(),
        url: Secret::new(endpoint.settings.url.clone()),
        headers: headers
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Secret::new(value)))
            .collect(),
        body: notice.body.clone().into(),
    }
}

/// Reads the answer as delivery would, and writes down what follows from it.
async fn settle(
    parts: &Parts,
    shared: &Shared,
    lines: &mut HashMap<String, Line>,
    Tried { notice, result }: Tried,
) -> Result<(), ChangeError> {
    let now_ms = parts.clock.now_ms();
    let Some(line) = lines.get_mut(&notice.endpoint) else {
        return Ok(());
    };
    line.busy = false;
    let status = result.as_ref().ok().map(|answer| answer.status);
    let verdict = verdict(&result);
    let error = match (&result, &verdict) {
        (_, Verdict::Delivered) => None,
        (Ok(answer), _) => Some(format!("status {}", answer.status)),
        (Err(error), _) => Some(format!("{}: {}", error.kind.as_str(), error.message)),
    };
    if status == Some(410) {
        parts.registry.alert_endpoint_gone(&notice.endpoint).await?;
        metrics::alert_notices(&notice.endpoint, "given_up").increment(1);
        tracing::warn!(
            endpoint = notice.endpoint,
            "the alert endpoint answered 410: nothing is sent until it is put again"
        );
        return Ok(());
    }
    let over = now_ms - notice.created_ms >= RETRY_FOR_MS;
    let (outcome, word) = match (&verdict, over) {
        (Verdict::Delivered, _) => (Some("sent"), "sent"),
        (_, true) => (Some("given_up"), "given_up"),
        (_, false) => (None, "retried"),
    };
    let mut next_ms = now_ms;
    match verdict {
        Verdict::Delivered => line.gate.works(),
        Verdict::Pause { reason } => {
            line.gate
                .pause(now_ms, reason, error.clone().unwrap_or_default(), None);
        }
        other => {
            let after = match other {
                Verdict::Retry { after } => after,
                _ => None,
            };
            let failures = notice.attempts.saturating_add(1);
            let wait_ms = BACKOFF.wait_ms(failures, after, chance(parts));
            next_ms = now_ms + wait_ms;
            line.gate.failed(now_ms, wait_ms, after.is_some());
        }
    }
    // The row first: whoever sees the endpoint's new status finds the attempt written down.
    let written = parts
        .registry
        .notice_tried(notice.n, outcome, next_ms, error.clone())
        .await;
    note(shared, line, &notice.endpoint, error, next_ms, now_ms);
    metrics::alert_notices(&notice.endpoint, word).increment(1);
    if word == "given_up" {
        tracing::warn!(
            endpoint = notice.endpoint,
            notice = notice.id,
            "an alert notice was given up: nobody took it for three days"
        );
    }
    written
}

/// What an answer means: the common reading. What a receiver refuses (400) is tried again too: an alert is not lost
/// because its receiver was deployed broken.
fn verdict(result: &Result<Answer, SendError>) -> Verdict {
    match result {
        Ok(answer) => {
            let reply = Reply {
                status: answer.status,
                retry_after: answer.retry_after,
                body: &answer.body,
            };
            common_verdict(&[], false, &reply)
        }
        Err(error) if error.kind == SendErrorKind::Blocked => Verdict::Pause { reason: "blocked" },
        Err(_) => Verdict::Retry { after: None },
    }
}

fn note(
    shared: &Shared,
    line: &Line,
    endpoint: &str,
    error: Option<String>,
    next_ms: Millis,
    now_ms: Millis,
) {
    let mut all = shared.status.lock();
    let status: &mut EndpointStatus = all.entry(endpoint.to_owned()).or_default();
    let paused = line.gate.paused();
    status.paused = paused.map(|why| (why.reason, why.since_ms));
    match error {
        None => status.last_sent_ms = Some(now_ms),
        Some(_) => status.last_failed_ms = Some(now_ms),
    }
    status.retry_at_ms = error
        .as_ref()
        .map(|_| line.gate.wakes_ms().unwrap_or(next_ms).max(next_ms));
    status.last_error = error;
}

fn chance(parts: &Parts) -> f64 {
    let mut bytes = [0_u8; 4];
    parts.random.fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
