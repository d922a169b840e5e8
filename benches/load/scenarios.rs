//! What is measured. Each scenario has a set-up of its own, is bounded in time, and reconciles what was acknowledged.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::kit::generator::{self, Load, Outcome};
use crate::kit::kill9;
use crate::kit::lab::{Lab, Reconciled};
use crate::table::{Table, megabytes, thousands};

/// A scenario.
type Scenario = fn(&mut Bench) -> Result<()>;

/// All of them, in order.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("sandbox", sandbox),
    ("single", single),
    ("batch", batch),
    ("drain", drain),
    ("flat", flat),
    ("isolation", isolation),
    ("kill9", kill9),
    ("pages", crate::pages::pages),
];

/// What scenarios share.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) binary: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) quick: bool,
    pub(crate) rounds: u32,
    pub(crate) seed: u64,
    pub(crate) table: Table,
    /// Where the yardstick listens, once it was asked for.
    pub(crate) ceiling: Option<std::net::SocketAddr>,
    pub(crate) broken: Vec<String>,
}

const SINGLE_CONNECTIONS: usize = 256;
const BATCH: usize = 50;
const BATCH_CONNECTIONS: usize = 64;

impl Bench {
    pub(crate) fn lab(&self, name: &str) -> Result<Lab> {
        let lab = Lab::open(&self.binary, &self.dir.join(name))?;
        lab.control("PUT", "settings", &json!({"log": false}))?;
        Ok(lab)
    }

    /// One or the other, by `--quick`.
    pub(crate) fn size(&self, quick: u64, full: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    fn seconds(&self, quick: u64, full: u64) -> Duration {
        Duration::from_secs(self.size(quick, full))
    }

    /// What the yardstick takes of posts of `batch` events, in events a second. The machine's own speed drifts by a third
    /// within minutes: whoever compares measures right before and right after, with nothing else at work.
    fn yardstick(&mut self, batch: usize, connections: usize) -> Result<f64> {
        let address = match self.ceiling {
            Some(address) => address,
            None => *self.ceiling.insert(crate::ceiling::serve()?),
        };
        let load = Load {
            address,
            key: "none".to_owned(),
            batch,
            connections,
            posts_per_second: None,
            events_max: u64::MAX,
            time_max: self.seconds(2, 8),
            run: 0,
        };
        Ok(post(&load)?.rate())
    }

    /// A rate beside the yardstick measured before and after it.
    fn compare(&mut self, scenario: &str, rate: f64, yardsticks: [f64; 2], least: f64) {
        let [before, after] = yardsticks;
        let ratio = rate / f64::midpoint(before, after);
        let what = format!(
            "… of a handler that only parses ({} before, {} after)",
            thousands(before),
            thousands(after)
        );
        let goal = format!("≥ {least}");
        self.table.goal(
            scenario,
            &what,
            format!("{ratio:.2}"),
            &goal,
            ratio >= least,
        );
    }

    /// Says what reconciling found, all in all; fails when anything is lost or has two identities.
    fn told(&mut self, scenario: &str, found: &[Reconciled]) -> Result<()> {
        let sum = |of: &dyn Fn(&Reconciled) -> u64| found.iter().map(of).sum::<u64>();
        let repeats = |found: &Reconciled, name: &str| {
            // What the sandbox does not say counts as a fault.
            found.summary["duplicates"][name].as_u64().unwrap_or(1)
        };
        let missing = sum(&|found| found.missing);
        let differing = sum(&|found| repeats(found, "differing"));
        let figure = format!(
            "{} acknowledged, {missing} lost, repeats {} alike and {differing} unlike",
            thousands(sum(&|found| found.acked) as f64),
            sum(&|found| repeats(found, "identical")),
        );
        let all_count = found
            .iter()
            .all(|found| found.summary["would_not_count"] == json!({}));
        let sound = missing == 0 && differing == 0 && all_count;
        self.table.goal(
            scenario,
            "reconciled at the vendor",
            figure,
            "0 lost",
            sound,
        );
        if !sound {
            bail!("reconciliation failed: {found:?}");
        }
        Ok(())
    }
}

/// Runs a load to its own end. Refusals are an error: a rate made of refusals says nothing.
fn post(load: &Load) -> Result<Outcome> {
    let outcome = generator::run(load, &Arc::new(AtomicBool::new(false)))?;
    if outcome.events() == 0 || outcome.refused > 0 || outcome.broken > 0 {
        eprintln!(
            "  note: {} posts refused, {} connections broken; first refusal: {}",
            outcome.refused,
            outcome.broken,
            outcome.refused_first.as_deref().unwrap_or("none")
        );
    }
    if outcome.events() == 0 {
        bail!("no event was acknowledged");
    }
    Ok(outcome)
}

fn ms(value: f64) -> String {
    format!("{value:.1} ms")
}

/// How fast the sandbox alone takes batches: it must not be what is measured.
fn sandbox(bench: &mut Bench) -> Result<()> {
    const EVENTS: usize = 1000;
    let lab = bench.lab("sandbox")?;
    let address = lab.sandbox_address()?;
    let mut stream = std::net::TcpStream::connect(address)?;
    let event = |n: usize| {
        format!(
            r#"{{"snapshots":[{{"events":[{{"entity_id":"7201","key":"purchase","timestamp":1795224081873,"uuid":"0c5d7f6e-2a41-5b7e-9d6a-{n:012x}","tags":{{"revenue":8999,"value":89.99,"currency":"GBP","order_id":"ORD-5521","coupon":"SUMMER"}},"value":89.99,"revenue":8999}}]}}],"visitor_id":"user-{n}","attributes":[{{"entity_id":"7101","key":"plan","type":"custom","value":"premium"}}]}}"#
        )
    };
    let rounds = bench.size(100, 1000) as usize;
    let before = lab.sandbox_cpu()?;
    let started = Instant::now();
    for round in 0..rounds {
        let visitors: Vec<String> = (round * EVENTS..(round + 1) * EVENTS).map(event).collect();
        let body = format!(
            r#"{{"account_id":"12345678","project_id":"98765432","revision":"7","enrich_decisions":true,"visitors":[{}]}}"#,
            visitors.join(",")
        );
        let head = format!(
            "POST /optimizely/v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut answer = [0; 512];
        let read = stream.read(&mut answer)?;
        if !answer[..read].starts_with(b"HTTP/1.1 204") {
            bail!("{}", String::from_utf8_lossy(&answer[..read]));
        }
    }
    let events = (rounds * EVENTS) as f64;
    let cpu = lab.sandbox_cpu()? - before;
    let counted = lab.summary("")?["counted"].as_f64().unwrap_or(0.0);
    let rate = events / cpu.as_secs_f64().max(0.01);
    let table = &mut bench.table;
    table.note(
        "sandbox",
        "events/s, one connection, generator included",
        thousands(events / started.elapsed().as_secs_f64()),
    );
    table.goal(
        "sandbox",
        "events per CPU second",
        thousands(rate),
        "≥ 150,000",
        rate >= 150_000.0 && counted >= events,
    );
    lab.clean();
    Ok(())
}

/// (b) Single events of 1 KB at 256 connections, while they are delivered.
fn single(bench: &mut Bench) -> Result<()> {
    let before = bench.yardstick(1, SINGLE_CONNECTIONS)?;
    let mut lab = bench.lab("single")?;
    lab.install("")?;
    let mut load = lab.load(1)?;
    load.time_max = bench.seconds(3, 20);
    let closed = post(&load)?;
    let rate = closed.rate();
    bench.table.goal(
        "single",
        "256 connections, closed loop, events/s",
        thousands(rate),
        "≥ 25,000",
        rate >= 25_000.0,
    );
    let latency = format!("{} / {}", ms(closed.ms(0.5)), ms(closed.ms(0.99)));
    bench
        .table
        .note("single", "… p50 / p99 at full rate", latency);
    // Under full load delivery gives way. The next figure is of a gateway that has caught up.
    let ended = Instant::now();
    let delivered = lab.summary("")?["unique_events"].as_f64().unwrap_or(0.0);
    lab.reconcile(&closed.acked, "", bench.seconds(60, 180))?;
    let share = delivered / closed.events() as f64 * 100.0;
    let caught_up = format!(
        "{share:.0} %; the rest {:.1} s later",
        ended.elapsed().as_secs_f64()
    );
    bench
        .table
        .note("single", "… delivered when the load ended", caught_up);

    let mut load = lab.load(2)?;
    load.time_max = bench.seconds(3, 20);
    load.posts_per_second = Some(25_000.0);
    let open = post(&load)?;
    let latency = format!("{} / {}", ms(open.ms(0.5)), ms(open.ms(0.99)));
    let met = open.ms(0.99) <= 25.0 && open.rate() >= 24_000.0;
    bench.table.goal(
        "single",
        "open loop at 25,000/s, p50 / p99",
        latency,
        "p99 ≤ 25 ms",
        met,
    );
    let acked = [closed.acked, open.acked].concat();
    let found = lab.reconcile(&acked, "", bench.seconds(60, 180))?;
    bench.told("single", &[found])?;
    lab.clean();
    let after = bench.yardstick(1, SINGLE_CONNECTIONS)?;
    bench.compare("single", rate, [before, after], 0.55);
    Ok(())
}

/// (c) Batches of 50.
fn batch(bench: &mut Bench) -> Result<()> {
    let before = bench.yardstick(BATCH, BATCH_CONNECTIONS)?;
    let mut lab = bench.lab("batch")?;
    lab.install("")?;
    let mut load = lab.load(1)?;
    load.batch = BATCH;
    load.connections = BATCH_CONNECTIONS;
    load.time_max = bench.seconds(3, 15);
    let closed = post(&load)?;
    let rate = closed.rate();
    bench.table.goal(
        "batch",
        "batches of 50, 64 connections, events/s",
        thousands(rate),
        "≥ 150,000",
        rate >= 150_000.0,
    );
    let latency = format!("{} / {}", ms(closed.ms(0.5)), ms(closed.ms(0.99)));
    bench.table.note("batch", "… p50 / p99", latency);
    let found = lab.reconcile(&closed.acked, "", bench.seconds(120, 300))?;
    bench.told("batch", &[found])?;
    lab.clean();
    let after = bench.yardstick(BATCH, BATCH_CONNECTIONS)?;
    bench.compare("batch", rate, [before, after], 0.35);
    Ok(())
}

/// Posts `events` in batches, whatever it takes within `most`.
fn fill(lab: &mut Lab, run: u32, events: u64, most: Duration) -> Result<Outcome> {
    let mut load = lab.load(run)?;
    load.batch = BATCH;
    load.connections = BATCH_CONNECTIONS;
    load.events_max = events;
    load.time_max = most;
    let outcome = post(&load)?;
    if outcome.events() < events * 9 / 10 {
        bail!("only {} of {events} events in {most:?}", outcome.events());
    }
    Ok(outcome)
}

/// (d) A backlog drained into the sandbox.
fn drain(bench: &mut Bench) -> Result<()> {
    let mut lab = bench.lab("drain")?;
    let id = lab.install("")?;
    lab.admin(
        "POST",
        &format!("integrations/{id}/pause"),
        &json!({"reason": "load harness"}),
    )?;
    let events = bench.size(100_000, 2_000_000);
    let filled = fill(&mut lab, 1, events, Duration::from_secs(300))?;
    lab.admin("POST", &format!("integrations/{id}/resume"), &Value::Null)?;
    let found = lab.reconcile(&filled.acked, "", Duration::from_secs(300))?;
    let span = |name: &str| found.summary[name].as_f64().context("first and last");
    let seconds = (span("last_ms")? - span("first_ms")?) / 1000.0;
    let rate = found.acked as f64 / seconds.max(0.001);
    bench.table.goal(
        "drain",
        "backlog into the sandbox, events/s",
        thousands(rate),
        "≥ 60,000",
        rate >= 60_000.0,
    );
    bench.told("drain", &[found])?;
    lab.clean();
    Ok(())
}

/// A gateway whose vendor is down.
fn silenced(bench: &Bench, name: &str) -> Result<Lab> {
    let mut lab = bench.lab(name)?;
    lab.install("")?;
    let down = json!([{"path": "/optimizely/v1/events", "action": {"wire": "reset"}}]);
    lab.control("PUT", "faults", &down)?;
    Ok(lab)
}

/// Fills, and says what an event cost in microseconds of the processor.
fn fill_and_weigh(lab: &mut Lab, run: u32, events: u64) -> Result<(Outcome, f64)> {
    let before = lab.gateway()?.cpu()?;
    let filled = fill(lab, run, events, Duration::from_secs(120))?;
    let cpu = lab.gateway()?.cpu()? - before;
    let micros = cpu.as_secs_f64() * 1e6 / filled.events() as f64;
    Ok((filled, micros))
}

/// (e) Ten million waiting while the vendor is down.
fn flat(bench: &mut Bench) -> Result<()> {
    let mut lab = silenced(bench, "flat")?;
    let total = bench.size(200_000, 10_000_000);
    let steps = 10;
    let step_events = total / u64::from(steps);
    let mut acked = Vec::new();
    let mut rates = Vec::new();
    let mut cpus = Vec::new();
    for step in 0..steps {
        let (filled, cpu) = fill_and_weigh(&mut lab, 1 + step, step_events)?;
        rates.push(filled.rate());
        cpus.push(cpu);
        acked.extend(filled.acked);
        let line = format!(
            "{} events/s, {:.2} µs CPU an event, resident {}",
            thousands(rates.last().copied().unwrap_or(0.0)),
            cpus.last().copied().unwrap_or(0.0),
            megabytes(lab.gateway()?.memory("VmRSS")?)
        );
        let what = format!("step {} of {steps}", step + 1);
        bench.table.note("flat", &what, line);
    }
    // The machine's own speed drifts meanwhile: an empty journal is measured before and after.
    let mut empty = silenced(bench, "flat-empty")?;
    let (filled, cpu) = fill_and_weigh(&mut empty, 1, step_events)?;
    empty.clean();
    let line = format!(
        "{} events/s, {cpu:.2} µs CPU an event",
        thousands(filled.rate())
    );
    bench
        .table
        .note("flat", "an empty journal right afterwards", line);
    let change = |values: &[f64], after: f64| match values {
        [before, .., last] if *before > 0.0 => (last / f64::midpoint(*before, after) - 1.0) * 100.0,
        _ => 0.0,
    };
    let cost = change(&cpus, cpu);
    bench.table.goal(
        "flat",
        "CPU an event, last step against an empty journal before and after",
        format!("{cost:+.0} %"),
        "± 20 %",
        cost.abs() <= 20.0,
    );
    let speed = change(&rates, filled.rate());
    bench.table.goal(
        "flat",
        "events/s, last step against an empty journal before and after",
        format!("{speed:+.0} %"),
        "≥ -20 %",
        speed >= -20.0,
    );
    let resident = lab.gateway()?.memory("VmRSS")?;
    let peak = lab.gateway()?.memory("VmHWM")?;
    bench.table.goal(
        "flat",
        &format!("resident with {} waiting (peak)", thousands(total as f64)),
        format!("{} ({})", megabytes(resident), megabytes(peak)),
        "≤ 150 MB",
        resident <= 150_000_000,
    );
    std::thread::sleep(Duration::from_secs(10));
    let rest = megabytes(lab.gateway()?.memory("VmRSS")?);
    bench.table.note("flat", "… ten seconds later", rest);
    lab.take_gateway()?.kill9()?;
    let ready = lab.start_gateway()?;
    bench.table.goal(
        "flat",
        "start to ready with them, after kill -9",
        format!("{} ms", ready.as_millis()),
        "≤ 2 s",
        ready <= Duration::from_secs(2),
    );
    lab.control("DELETE", "faults", &Value::Null)?;
    let found = lab.reconcile(&acked, "", Duration::from_secs(900))?;
    bench.told("flat", &[found])?;
    let resident = lab.gateway()?.memory("VmHWM")?;
    bench
        .table
        .note("flat", "peak resident while draining", megabytes(resident));
    lab.clean();
    Ok(())
}

/// (f) A second integration that hangs on every call. Alone and beside it by turns, so that whatever else slows the
/// machine for a while meets both; the middle one of each counts.
fn isolation(bench: &mut Bench) -> Result<()> {
    let mut lab = bench.lab("isolation")?;
    lab.install("first")?;
    let phase = |lab: &mut Lab, run: u32| -> Result<(f64, Reconciled)> {
        lab.control("DELETE", "optimizely/summary?at=first", &Value::Null)?;
        let mut load = lab.load(run)?;
        load.connections = 64;
        load.posts_per_second = Some(2_000.0);
        load.time_max = bench.seconds(5, 25);
        let posted = post(&load)?;
        let found = lab.reconcile(&posted.acked, "first", Duration::from_secs(60))?;
        let p99 = found.summary["age_ms"]["p99"].as_f64().context("age")?;
        Ok((p99, found))
    };
    let hang = json!([{"path": "/at/hanging/optimizely/v1/events",
        "action": {"delay_ms": 30_000, "status": 503}}]);
    lab.control("PUT", "faults", &hang)?;
    // Unmeasured: connections are made, caches filled.
    phase(&mut lab, 0)?;
    let (mut alone, mut beside, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..3 {
        let (p99, found) = phase(&mut lab, 1 + 2 * turn)?;
        alone.push(p99);
        all.push(found);
        let hanging = lab.install("hanging")?;
        let (p99, found) = phase(&mut lab, 2 + 2 * turn)?;
        beside.push(p99);
        all.push(found);
        lab.admin(
            "DELETE",
            &format!("integrations/{hanging}?force=true"),
            &Value::Null,
        )?;
    }
    let middle = |turns: &mut Vec<f64>| {
        turns.sort_by(f64::total_cmp);
        let each: Vec<String> = turns.iter().copied().map(ms).collect();
        (turns.get(1).copied().unwrap_or(0.0), each.join(", "))
    };
    let ((alone, each_alone), (beside, each_beside)) = (middle(&mut alone), middle(&mut beside));
    bench.table.note(
        "isolation",
        "accept to vendor, p99, alone, three times",
        each_alone,
    );
    let moved = (beside / alone.max(1.0) - 1.0) * 100.0;
    bench.table.goal(
        "isolation",
        "… beside one that hangs 30 s a call",
        format!("{each_beside} ({moved:+.0} %)"),
        "< 20 %",
        moved < 20.0,
    );
    bench.told("isolation", &all)?;
    lab.clean();
    Ok(())
}

/// Killed by SIGKILL under load, again and again.
fn kill9(bench: &mut Bench) -> Result<()> {
    let plan = kill9::Plan {
        rounds: if bench.quick {
            bench.rounds.min(10)
        } else {
            bench.rounds
        },
        seed: bench.seed,
        load_ms: 50..1500,
        connections: 32,
    };
    let report = kill9::run(&bench.binary, &bench.dir.join("kill9"), &plan)?;
    let table = &mut bench.table;
    table.note("kill9", "SIGKILLs under load", report.rounds.to_string());
    table.note(
        "kill9",
        "events without an answer; acknowledged when posted again",
        format!(
            "{}; {}",
            thousands(report.unanswered as f64),
            thousands(report.reposted as f64)
        ),
    );
    table.note(
        "kill9",
        "slowest restart to ready",
        format!("{} ms", report.ready_max.as_millis()),
    );
    bench.told("kill9", std::slice::from_ref(&report.reconciled))?;
    report.verdict()
}
