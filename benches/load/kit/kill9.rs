//! The crash test: a gateway killed by SIGKILL again and again at random moments under load, on one data directory,
//! with a vendor that fails now and then. At the end every acknowledged event must be at the vendor, and whatever
//! came twice must have come with the same uuid, timestamp and entity id.
//!
//! Events whose answer was lost are posted again after the restart, as a client would: the gateway has to
//! recognise them, or the vendor sees one uuid with two timestamps.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;

use super::generator::{self, Ids};
use super::lab::{Lab, Reconciled};

/// Longest wait for the vendor to have everything at the end.
const DRAIN_MAX: Duration = Duration::from_secs(180);

/// How the test goes.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Kills.
    pub(crate) rounds: u32,
    /// Makes the moments repeatable.
    pub(crate) seed: u64,
    /// Shortest and longest time under load before a kill.
    pub(crate) load_ms: std::ops::Range<u64>,
    /// Connections posting.
    pub(crate) connections: usize,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Report {
    /// Kills.
    pub(crate) rounds: u32,
    /// Events whose answer was lost, and how many of them were acknowledged when posted again.
    pub(crate) unanswered: u64,
    /// See there.
    pub(crate) reposted: u64,
    /// Slowest restart, until `/readyz` said 200.
    pub(crate) ready_max: Duration,
    /// At the vendor.
    pub(crate) reconciled: Reconciled,
    /// Rows of the gateway's ledger that do not add up.
    pub(crate) ledger_faults: Vec<String>,
}

impl Report {
    /// Whether the promise held.
    pub(crate) fn verdict(&self) -> Result<()> {
        let summary = &self.reconciled.summary;
        if self.reconciled.acked == 0 {
            bail!("nothing was acknowledged: the test tested nothing");
        }
        if self.reconciled.missing > 0 {
            bail!(
                "{} acknowledged events lost, e.g. {:?}",
                self.reconciled.missing,
                self.reconciled.sample
            );
        }
        if summary["duplicates"]["differing"] != json!(0) {
            bail!(
                "uuids came again with another timestamp or entity id: {}",
                summary["duplicates"]
            );
        }
        if summary["would_not_count"] != json!({}) {
            bail!("events the vendor would not count: {summary}");
        }
        if !self.ledger_faults.is_empty() {
            bail!("the ledger does not add up: {:?}", self.ledger_faults);
        }
        Ok(())
    }
}

/// Runs the test in `dir`.
pub(crate) fn run(binary: &Path, dir: &Path, plan: &Plan) -> Result<Report> {
    let mut lab = Lab::open(binary, dir)?;
    lab.install("")?;
    lab.control("PUT", "settings", &json!({"log": false}))?;
    // Answers lost after the vendor took the batch make repeats; 503 makes retries.
    lab.control(
        "PUT",
        "faults",
        &json!({"seed": plan.seed, "rules": [
            {"path": "/optimizely/v1/events", "probability": 0.03, "action": {"status": 503}},
            {"path": "/optimizely/v1/events", "probability": 0.03, "action": {"wire": "reset", "process": true}},
        ]}),
    )?;
    let mut chance = Chance(plan.seed);
    let mut acked: Vec<Ids> = Vec::new();
    let mut lost_answers: Vec<Ids> = Vec::new();
    let (mut unanswered, mut reposted) = (0, 0);
    let mut ready_max = Duration::ZERO;
    for round in 0..plan.rounds {
        if round > 0 {
            ready_max = ready_max.max(lab.start_gateway()?);
        }
        let mut load = lab.load(round)?;
        if chance.below(2) == 0 {
            let again = generator::repost(&load, &std::mem::take(&mut lost_answers))?;
            reposted += again.iter().map(Ids::len).sum::<u64>();
            acked.extend(again);
        }
        load.connections = plan.connections;
        load.batch = [1, 1, 5, 20][chance.below(4) as usize];
        load.time_max = Duration::from_secs(30);
        // Enough to keep it busy, not so much that the end takes for ever to deliver.
        load.posts_per_second = Some(1_500.0 / (load.batch as f64).sqrt());
        let stop = Arc::new(AtomicBool::new(false));
        let posting = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || generator::run(&load, &stop))
        };
        let span = plan.load_ms.end.saturating_sub(plan.load_ms.start).max(1);
        let wait = plan.load_ms.start + chance.below(span);
        std::thread::sleep(Duration::from_millis(wait));
        let alive = lab.gateway()?.alive();
        lab.take_gateway()?.kill9()?;
        stop.store(true, Ordering::Relaxed);
        let outcome = match posting.join() {
            Ok(outcome) => outcome?,
            Err(_) => bail!("the generator panicked"),
        };
        if !alive {
            bail!("the gateway ended by itself in round {round}; see gateway.log");
        }
        unanswered += outcome.unknown.iter().map(Ids::len).sum::<u64>();
        acked.extend(outcome.acked);
        lost_answers.extend(outcome.unknown);
    }
    ready_max = ready_max.max(lab.start_gateway()?);
    let reconciled = lab.reconcile(&acked, "", DRAIN_MAX)?;
    let ledger_faults = lab.ledger_faults(Duration::from_secs(30))?;
    // What arrived while waiting for the ledger counts too.
    let summary = lab.summary("")?;
    lab.take_gateway()?.terminate(Duration::from_secs(30))?;
    let report = Report {
        rounds: plan.rounds,
        unanswered,
        reposted,
        ready_max,
        reconciled: Reconciled {
            summary,
            ..reconciled
        },
        ledger_faults,
    };
    if report.verdict().is_ok() {
        lab.clean();
    }
    Ok(report)
}

/// Repeatable chance (SplitMix64).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }
}
