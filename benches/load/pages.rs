//! Pages: how long every page of the console and every list of the management API takes with a million deliveries in the
//! log and events running through. The log is filled by its own API before the gateway is started on it; then each
//! address is asked in turn, over and over, by one caller on a connection of its own, as a browser would.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aqueduct::clock::{Clock, Millis, SystemClock};
use aqueduct::logbook::{Attempt, Logbook, Options, Rejected};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::kit::generator;
use crate::kit::http::{self, Session};
use crate::kit::lab::{ADMIN_TOKEN, Lab};
use crate::scenarios::Bench;
use crate::table::thousands;

/// The goal, at the 95th percentile.
const GOAL_MS: f64 = 100.0;

/// Rows noted before the log's queue is waited for.
const AT_ONCE: u64 = 4_000;

/// An address and how long its answers took, in ms.
struct Asked {
    path: String,
    took: Vec<f64>,
}

pub(crate) fn pages(bench: &mut Bench) -> Result<()> {
    let mut lab = bench.lab("pages")?;
    lab.set("AQUEDUCT_ATTEMPTS_BYTES", (8_u64 << 30).to_string());
    lab.set("AQUEDUCT_ADMIN_RATE", "0".to_owned());
    let id = lab.install("")?;
    lab.take_gateway()?.terminate(Duration::from_secs(30))?;
    let rows = bench.size(20_000, 1_000_000);
    let filled = Instant::now();
    fill(&lab.data().join("attempts.db"), &id, rows)?;
    let figure = format!(
        "{} in {:.0} s",
        thousands(rows as f64),
        filled.elapsed().as_secs_f64()
    );
    bench.table.note("pages", "deliveries in the log", figure);
    let ready = lab.start_gateway()?;
    let figure = format!("{:.0} ms", ready.as_secs_f64() * 1e3);
    bench.table.note("pages", "… ready after", figure);

    // At least 5,000 events a second run through while the pages are asked for: somewhat more are offered.
    let mut load = lab.load(1)?;
    load.batch = 50;
    load.connections = 16;
    load.posts_per_second = Some(if bench.quick { 22.0 } else { 110.0 });
    load.time_max = Duration::from_secs(3_600);
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let running = std::thread::spawn(move || generator::run(&load, &until));
    let asked = ask_all(bench, &mut lab, &id);
    stop.store(true, Ordering::Relaxed);
    let outcome = running
        .join()
        .map_err(|_| anyhow::anyhow!("the load panicked"))??;
    bench
        .table
        .note("pages", "events/s meanwhile", thousands(outcome.rate()));
    for Asked { path, mut took } in asked? {
        took.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (took.len() as f64 * share).ceil() as usize;
            took.get(place.saturating_sub(1))
                .copied()
                .unwrap_or(f64::MAX)
        };
        let figure = format!("{:.1} / {:.1} ms", at(0.5), at(0.95));
        let path = path.replace(&id, "{id}");
        bench
            .table
            .goal("pages", &path, figure, "p95 < 100 ms", at(0.95) < GOAL_MS);
    }
    lab.clean();
    Ok(())
}

/// Asks every address in turn.
fn ask_all(bench: &Bench, lab: &mut Lab, id: &str) -> Result<Vec<Asked>> {
    let address = lab.gateway()?.address("admin")?;
    let session = Session::sign_in(&address, ADMIN_TOKEN)?;
    let first = &lab.admin("GET", "deliveries?limit=1", &Value::Null)?["data"][0];
    let delivery = first["id"].as_str().context("a delivery")?.to_owned();
    let message_id = message_id(lab)?;
    let mut asked: Vec<Asked> = addresses(id, &delivery, &message_id)
        .into_iter()
        .map(|path| Asked {
            path,
            took: Vec::new(),
        })
        .collect();
    for _ in 0..bench.size(5, 40) {
        for one in &mut asked {
            let started = Instant::now();
            let (status, body) = if one.path.starts_with("/v1/") {
                http::call(&address, "GET", &one.path, Some(ADMIN_TOKEN), b"")?
            } else {
                session.get(&one.path)?
            };
            one.took.push(started.elapsed().as_secs_f64() * 1e3);
            if status != 200 {
                let body: String = String::from_utf8_lossy(&body).chars().take(300).collect();
                bail!("{}: {status} {body}", one.path);
            }
        }
    }
    Ok(asked)
}

/// Every page, and every list with its filters; the log's also from its middle, and with filters few rows pass.
fn addresses(id: &str, delivery: &str, message_id: &str) -> Vec<String> {
    let now = SystemClock.now_ms();
    let pages = [
        "/".to_owned(),
        "/integrations".to_owned(),
        "/integrations/library".to_owned(),
        "/integrations/library/optimizely".to_owned(),
        format!("/integrations/{id}"),
        format!("/integrations/{id}/settings"),
        format!("/integrations/{id}/blueprint"),
        format!("/integrations/{id}/revisions"),
        format!("/integrations/{id}/revisions/1"),
        "/live".to_owned(),
        format!("/events/{message_id}"),
        "/deliveries".to_owned(),
        format!("/deliveries?integration={id}"),
        "/deliveries?outcome=reject".to_owned(),
        format!("/deliveries?integration={id}&outcome=pause"),
        format!("/deliveries?message_id={message_id}"),
        "/deliveries?before=10000".to_owned(),
        format!("/deliveries/{delivery}"),
        "/dead-letters".to_owned(),
        format!("/dead-letters/list?integration={id}&reason=rejected"),
        "/rejected".to_owned(),
        "/rejected?code=event_not_allowed".to_owned(),
        "/ledger".to_owned(),
        "/ledger?by=experiment".to_owned(),
        "/sources".to_owned(),
        "/alerts".to_owned(),
        "/tokens".to_owned(),
        "/audit".to_owned(),
        "/settings".to_owned(),
    ];
    let calls = [
        "integration-catalog".to_owned(),
        "integrations".to_owned(),
        format!("integrations/{id}/blueprint/revisions"),
        "sources".to_owned(),
        "tokens".to_owned(),
        "events".to_owned(),
        format!("events/{message_id}"),
        "deliveries?limit=100".to_owned(),
        format!("deliveries?limit=100&integration={id}"),
        "deliveries?limit=100&outcome=reject".to_owned(),
        format!("deliveries?limit=100&since={now}"),
        "deliveries?limit=100&since=0".to_owned(),
        format!("deliveries?message_id={message_id}"),
        "dead-letters?limit=100".to_owned(),
        format!("dead-letters?limit=100&integration={id}&reason=rejected"),
        "rejected-events?limit=100".to_owned(),
        format!("rejected-events?limit=100&since={now}"),
        "ledger".to_owned(),
        "ledger?by=experiment".to_owned(),
        "assignments".to_owned(),
        "alerts".to_owned(),
        "alerts/state".to_owned(),
        "audit".to_owned(),
    ];
    let calls = calls.map(|call| format!("/v1/admin/{call}"));
    pages.into_iter().chain(calls).collect()
}

/// The message id of an event that has been delivered.
fn message_id(lab: &mut Lab) -> Result<String> {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        let recent = lab.admin("GET", "events", &Value::Null)?;
        if let Some(id) = recent["data"][0]["message_id"].as_str() {
            return Ok(id.to_owned());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("no event was seen")
}

/// Writes `rows` deliveries of the last hour, one in a hundred of them rejected, and a twentieth as many refused events.
fn fill(path: &Path, integration: &str, rows: u64) -> Result<()> {
    let options = Options {
        bytes_max: 8 << 30,
        queue_rows_max: 2 * AT_ONCE as usize,
        queue_bytes_max: 1 << 30,
        body_bytes_per_s: 1 << 40,
        ..Options::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let log = Logbook::open(path, options, Arc::new(SystemClock))?;
    let from_ms = SystemClock.now_ms() - 3_600_000;
    let request = Bytes::from(
        json!({ "account_id": "12345678", "visitors": [{ "visitor_id": "user-1", "snapshots": [{ "events": [{ "key": "purchase", "revenue": 8_999, "tags": { "order_id": "ORD-5521", "currency": "GBP" } }] }] }] })
            .to_string(),
    );
    for row in 0..rows {
        let at_ms = from_ms + Millis::try_from(row * 3_500_000 / rows)?;
        let rejected = row % 100 == 0;
        log.attempt(Attempt {
            integration: integration.to_owned(),
            request: "events".to_owned(),
            at_ms,
            took_ms: 20,
            attempt: 1,
            trigger: "batch",
            seqs: (row * 5..row * 5 + 5).collect(),
            url: "https://logx.optimizely.com/v1/events".to_owned(),
            method: "POST".to_owned(),
            request_body: request.clone(),
            status: Some(if rejected { 400 } else { 204 }),
            response_body: Bytes::new(),
            verdict: if rejected { "reject" } else { "delivered" },
            error: None,
        });
        if row % 20 == 0 {
            log.rejected(Rejected {
                at_ms,
                source: "src_load".to_owned(),
                index: 0,
                code: "missing_event",
                message: "a track call needs the name of what happened in `event`".to_owned(),
                body: Bytes::from_static(b"{\"userId\":\"u\"}"),
            });
        }
        if row % AT_ONCE == 0 {
            runtime.block_on(log.flush());
        }
    }
    runtime.block_on(log.flush());
    runtime.block_on(log.close());
    Ok(())
}
