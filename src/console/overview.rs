//! The first page: what needs attention, then how every integration is doing.

use askama::Template;
use axum::extract::{Extension, State};

use super::Console;
use super::chart::Bars;
use super::format::{Pill, When, count, minute, prose, span};
use super::frame::{Answer, Frame, page as rendered};
use super::gate::Who;
use super::views::{Alert, AlertEndpoint, Books, BooksRow, Integration, Listed, Rejected};
use crate::clock::Millis;

/// An event waiting longer than this is worth a look.
const WAITING_LONG_MS: Millis = 5 * 60_000;

/// A datafile confirmed longer ago than this is stale.
const STALE_MS: Millis = 60 * 60_000;

/// Refusals younger than this are worth a look.
const REFUSED_LATELY_MS: Millis = 60 * 60_000;

#[derive(Template)]
#[template(path = "overview.html")]
struct Page {
    frame: Frame,
    attention: Vec<Attention>,
    rows: Vec<Row>,
    chart: Bars,
    balanced: bool,
    lately: Lately,
}

/// What the figures kept in memory are of.
struct Lately {
    /// Over a column: "last hour", or "since 20:01 UTC" while the process is younger than that.
    column: String,
    /// In a sentence: "in the last hour" …
    sentence: String,
    /// It is since the start only.
    since: Option<String>,
}

impl Lately {
    fn of(since_ms: Option<Millis>) -> Self {
        match since_ms.map(minute) {
            None => Self {
                column: "last hour".to_owned(),
                sentence: "in the last hour".to_owned(),
                since: None,
            },
            Some(since) => Self {
                column: format!("since {since}"),
                sentence: format!("since {since}, when this gateway started"),
                since: Some(since),
            },
        }
    }
}

/// Something to look at, and where.
struct Attention {
    pill: Pill,
    what: String,
    detail: String,
    link: String,
    action: &'static str,
}

struct Row {
    id: String,
    name: String,
    vendor: String,
    state: Pill,
    why: String,
    delivered: u64,
    delivered_all: u64,
    dead: u64,
    pending: u64,
    p95: String,
    oldest: Option<When>,
    last_success: Option<When>,
}

/// The overview.
pub(super) async fn page(State(console): State<Console>, Extension(who): Extension<Who>) -> Answer {
    let now_ms = console.now_ms();
    let api = console.api();
    let integrations = api.integrations(&who.actor).await?;
    let books: Books = api.get(&who.actor, "/ledger").await?;
    let refused: Listed<Rejected> = api.get(&who.actor, "/rejected-events?limit=1").await?;
    let mut attention = Vec::new();
    let mut rows = Vec::new();
    for integration in &integrations.data {
        let row = books
            .data
            .iter()
            .find(|row| row.integration == integration.id);
        attention.extend(needs(integration, row, now_ms));
        rows.push(row_of(&console, integration, row, now_ms));
    }
    if !books.balanced {
        attention.insert(
            0,
            Attention {
                pill: Pill::new("bad", "books"),
                what: "The ledger does not add up".to_owned(),
                detail: "Some accepted events are in no column.".to_owned(),
                link: "/ledger".to_owned(),
                action: "Open the ledger",
            },
        );
    }
    if let Some(refusal) = refused.data.first()
        && refusal
            .at
            .parse::<jiff::Timestamp>()
            .is_ok_and(|at| now_ms - at.as_millisecond() < REFUSED_LATELY_MS)
    {
        attention.push(Attention {
            pill: Pill::new("warn", "refused"),
            what: "Events were refused at the door within the last hour".to_owned(),
            detail: format!("the newest: {}", refusal.message),
            link: "/rejected".to_owned(),
            action: "See them",
        });
    }
    let firing: Listed<Alert> = api
        .get(&who.actor, "/alerts/state?state=firing&limit=100")
        .await?;
    let endpoints: Listed<AlertEndpoint> = api.get(&who.actor, "/alerts?limit=100").await?;
    attention.extend(silence(&firing.data));
    attention.extend(endpoints.data.iter().filter_map(deaf));
    let lately = Lately::of(console.0.sampler.since());
    let chart = Bars::by_minute(
        "Events accepted",
        &lately.sentence,
        &console.0.sampler.accepted_by_minute(now_ms),
    );
    Ok(rendered(&Page {
        frame: Frame::new(&who, "overview", "Overview"),
        attention,
        rows,
        chart,
        balanced: books.balanced,
        lately,
    }))
}

/// What the gateway's own watch says that no integration's row does.
fn silence(firing: &[Alert]) -> Option<Attention> {
    let alert = firing.iter().find(|alert| alert.rule == "zero_traffic")?;
    Some(Attention {
        pill: Pill::new("warn", "silence"),
        what: "No events come in".to_owned(),
        detail: alert.summary.clone(),
        link: "/live".to_owned(),
        action: "Watch",
    })
}

/// Somebody who should be told of alerts and is not.
fn deaf(endpoint: &AlertEndpoint) -> Option<Attention> {
    let stuck = endpoint.state != "ok" && (endpoint.waiting > 0 || endpoint.state == "gone");
    stuck.then(|| Attention {
        pill: Pill::new("bad", "alerts"),
        what: format!("The alert endpoint {} takes no notices", endpoint.name),
        detail: format!(
            "{} waiting; {}",
            endpoint.waiting,
            endpoint
                .last_error
                .as_deref()
                .unwrap_or("it answered 410: gone")
        ),
        link: format!("/alerts/{}", super::form::segment(&endpoint.name)),
        action: "See why",
    })
}

/// Why a pipeline does not run, for one line.
pub(super) fn why(integration: &Integration) -> String {
    let status = &integration.status;
    match (&status.reason, &status.detail) {
        _ if status.state == "running" => String::new(),
        (Some(reason), Some(detail)) if !detail.is_empty() => {
            format!("{}: {detail}", words(reason))
        }
        (Some(reason), _) => words(reason),
        _ => String::new(),
    }
}

/// A machine's word for people.
pub(super) fn words(reason: &str) -> String {
    let mut words = reason.replace('_', " ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    words
}

fn needs(integration: &Integration, row: Option<&BooksRow>, now_ms: Millis) -> Vec<Attention> {
    let mut found = Vec::new();
    let status = &integration.status;
    let home = format!("/integrations/{}", integration.id);
    let name = &integration.name;
    if matches!(status.state.as_str(), "paused" | "failed" | "waiting") {
        found.push(Attention {
            pill: Pill::state(status),
            what: format!("{name} is {}", status.state),
            detail: why(integration),
            link: home.clone(),
            action: "Look at it",
        });
    }
    if let Some(dead) = row.map(|row| row.dead).filter(|dead| *dead > 0) {
        found.push(Attention {
            pill: Pill::new("bad", "dead letters"),
            what: if dead == 1 {
                format!("1 event for {name} was given up")
            } else {
                format!("{} events for {name} were given up", count(&dead))
            },
            detail: "They are kept and can be sent again once the cause is gone.".to_owned(),
            link: format!("/dead-letters?integration={}", integration.id),
            action: "Repair",
        });
    }
    if let Some(oldest) = status.oldest_pending_ms
        && now_ms - oldest > WAITING_LONG_MS
        && status.state == "running"
    {
        found.push(Attention {
            pill: Pill::new("warn", "slow"),
            what: format!(
                "The oldest event for {name} waits since {}",
                span(&(now_ms - oldest))
            ),
            detail: status.last_error.clone().unwrap_or_default(),
            link: home.clone(),
            action: "Look at it",
        });
    }
    for document in &status.documents {
        let stale = document
            .confirmed_at_ms
            .is_none_or(|at_ms| now_ms - at_ms > STALE_MS);
        if let Some(fault) = &document.fault
            && stale
        {
            found.push(Attention {
                pill: Pill::new("warn", "stale"),
                what: format!("The datafile of {name} cannot be read"),
                detail: fault.clone(),
                link: home.clone(),
                action: "Look at it",
            });
        }
    }
    found
}

fn row_of(
    console: &Console,
    integration: &Integration,
    row: Option<&BooksRow>,
    now_ms: Millis,
) -> Row {
    let lately = console.0.sampler.lately(&integration.id);
    Row {
        id: integration.id.clone(),
        name: integration.name.clone(),
        vendor: integration.vendor.clone(),
        state: Pill::state(&integration.status),
        why: why(integration),
        delivered: lately.delivered,
        delivered_all: row.map_or(0, |row| row.delivered),
        dead: row.map_or(0, |row| row.dead),
        pending: row.map_or(0, |row| row.pending),
        p95: lately.p95_s.map_or_else(|| "–".to_owned(), seconds),
        oldest: integration
            .status
            .oldest_pending_ms
            .map(|at_ms| When::ms(at_ms, now_ms)),
        last_success: integration
            .status
            .last_success_ms
            .map(|at_ms| When::ms(at_ms, now_ms)),
    }
}

fn seconds(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1000.0)
    } else {
        format!("{seconds:.1} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_restart_the_figures_say_since_when_they_count() {
        let young = Lately::of(Some(1_795_183_407_412));
        assert_eq!(young.column, "since 14:03 UTC");
        assert_eq!(young.since.as_deref(), Some("14:03 UTC"));
        let chart = Bars::by_minute("Events accepted", &young.sentence, &[0, 3]);
        let chart = chart.render().unwrap();
        assert!(
            chart.contains("3 since 14:03 UTC, when this gateway started, at most 3 a minute"),
            "{chart}"
        );
        assert!(!chart.contains("last hour"), "{chart}");
        let old = Lately::of(None);
        assert_eq!((old.column.as_str(), old.since), ("last hour", None));
    }
}
