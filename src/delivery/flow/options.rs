//! How a flow behaves: the integration's tuning and what its blueprint says of each request, as plain numbers.

use super::super::batch::Limits;
use super::super::retry::Backoff;
use super::buckets::Window;
use crate::blueprint::{ItemKeys, Plan, RateOf, RequestPlan};
use crate::clock::Millis;
use crate::registry::Tuning;
use crate::vendor::replies::opts_out;

/// How a flow behaves.
#[derive(Debug, Clone)]
pub(in super::super) struct FlowOptions {
    /// The feed's name.
    pub feed: String,
    /// By request of the plan.
    pub requests: Vec<Rules>,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// Overrides how long a held event waits.
    pub hold_ms: Option<Millis>,
    /// Events accepted longer ago are given up while they wait for a request to work again.
    pub backlog_age_ms: Millis,
    /// Events in memory at once.
    pub window_events: usize,
    /// Their bytes.
    pub window_bytes: usize,
}

/// How one request behaves.
#[derive(Debug, Clone)]
pub(in super::super) struct Rules {
    /// Its name.
    pub name: std::sync::Arc<str>,
    /// What one request holds.
    pub limits: Limits,
    /// Under way at once.
    pub in_flight_max: usize,
    /// Which gate it goes through.
    pub gate: usize,
    /// Requests with the same one share their lanes.
    pub lanes: usize,
    /// Least time between two requests with items of one lane.
    pub pace_ms: Millis,
    /// Only the newest event of a key is sent.
    pub newest: bool,
    /// … but for this: an older one is sent without this field.
    pub newest_without: Option<std::sync::Arc<str>>,
    /// Its vendor may say of a person to send nothing more for a while.
    pub opts_out: bool,
    /// The same value is not sent again within this.
    pub once_ms: Option<Millis>,
    /// How often it may be sent.
    pub rate: Vec<Window>,
    /// Requests with the same one share their rates.
    pub bucket: Option<u128>,
    /// Who carries its items while it may not be sent.
    pub spill: Option<usize>,
    /// … and it never is.
    pub spill_always: bool,
    /// How long an item that is missing at the vendor is set apart, time after time.
    pub requeue_ms: Vec<Millis>,
    /// Older events are not sent.
    pub stale_after_ms: Option<Millis>,
    /// … and older ones than this are dead, unless they are replayed.
    pub dead_after_ms: Option<Millis>,
    /// A job that has failed for this long is given up.
    pub retry_for_ms: Millis,
}

impl FlowOptions {
    /// What an integration's plan and tuning say.
    pub(in super::super) fn of(feed: &str, plan: &Plan, tuning: &Tuning) -> Self {
        let requests = plan.requests();
        let mut rules: Vec<Rules> = requests
            .iter()
            .enumerate()
            .map(|(index, request)| rules_of(index, request, requests, tuning))
            .collect();
        // Whoever carries another's items keeps their order.
        for index in 0..rules.len() {
            let Some(lanes) = rules.get(index).map(|rules| rules.lanes) else {
                continue;
            };
            if let Some(spill) = rules.get(index).and_then(|rules| rules.spill)
                && let Some(carrier) = rules.get_mut(spill)
            {
                carrier.lanes = lanes;
            }
        }
        Self {
            feed: feed.to_owned(),
            requests: rules,
            backoff: Backoff {
                base_ms: tuning.retry_base_ms,
                cap_ms: tuning.retry_cap_ms,
            },
            hold_ms: tuning.hold_s.map(seconds),
            backlog_age_ms: seconds(tuning.backlog_age_s),
            window_events: super::super::worker::WINDOW_EVENTS,
            window_bytes: super::super::worker::WINDOW_BYTES,
        }
    }

    /// Does the order in which events come in matter to it?
    pub(in super::super) fn ordered(plan: &Plan) -> bool {
        plan.requests()
            .iter()
            .any(|request| request.lane || request.newest || request.once.is_some())
    }
}

impl Rules {
    /// Of a request of its own that says nothing of the way: what tests begin with.
    #[cfg(test)]
    pub(in super::super) fn plain(index: usize, name: &str) -> Self {
        Self {
            name: name.into(),
            limits: Limits {
                items_max: 1,
                bytes_max: 4_000,
                wait_ms: 100,
            },
            in_flight_max: 3,
            gate: index,
            lanes: index,
            pace_ms: 0,
            newest: false,
            newest_without: None,
            opts_out: false,
            once_ms: None,
            rate: Vec::new(),
            bucket: None,
            spill: None,
            spill_always: false,
            requeue_ms: Vec::new(),
            stale_after_ms: None,
            dead_after_ms: None,
            retry_for_ms: 3_600_000,
        }
    }

    /// Those of an item's keys that count.
    pub(super) fn keys(&self, mut keys: ItemKeys) -> ItemKeys {
        keys.newest = keys.newest.filter(|_| self.newest);
        keys.once = keys.once.filter(|_| self.once_ms.is_some());
        #[expect(
            clippy::cast_possible_truncation,
            reason = "any bits of a hash will do for a lane"
        )]
        {
            keys.lane = keys.lane.or(keys.newest.map(|newest| newest as u64));
        }
        keys
    }
}

fn rules_of(index: usize, request: &RequestPlan, all: &[RequestPlan], tuning: &Tuning) -> Rules {
    let gate_name =
        |request: &RequestPlan| request.gate.clone().unwrap_or_else(|| request.name.clone());
    let name = gate_name(request);
    let rate: Vec<Window> = request
        .rates
        .iter()
        .map(|rate| Window {
            per_ms: millis(rate.per),
            requests: (rate.of == RateOf::Requests).then_some(u64::from(rate.n)),
            items: (rate.of == RateOf::Items).then_some(u64::from(rate.n)),
        })
        .collect();
    // No request may hold more than a whole window.
    let window_items = rate
        .iter()
        .filter_map(|window| window.items)
        .min()
        .map_or(usize::MAX, |items| {
            usize::try_from(items).unwrap_or(usize::MAX)
        });
    Rules {
        name: request.name.as_str().into(),
        limits: Limits {
            items_max: items_of(request)
                .min(tuning.batch_items.unwrap_or(usize::MAX))
                .min(window_items)
                .max(1),
            bytes_max: request
                .bytes_max
                .min(tuning.batch_bytes.unwrap_or(usize::MAX)),
            wait_ms: tuning.batch_wait_ms.map_or_else(
                || millis(request.wait),
                |wait| Millis::try_from(wait).unwrap_or(Millis::MAX),
            ),
        },
        in_flight_max: request.in_flight.unwrap_or(tuning.in_flight_max).max(1),
        gate: all
            .iter()
            .position(|other| gate_name(other) == name)
            .unwrap_or(index),
        lanes: request.lane_with.unwrap_or(index),
        pace_ms: request.pace.map_or(0, millis),
        newest: request.newest,
        newest_without: request.newest_without.as_deref().map(Into::into),
        opts_out: request.replies.as_deref().is_some_and(opts_out),
        once_ms: request.once.as_ref().map(|once| millis(once.lasts)),
        rate,
        bucket: request.bucket,
        spill: request.spill,
        spill_always: request.spill_always && request.spill.is_some(),
        requeue_ms: request.requeue.iter().map(|wait| millis(*wait)).collect(),
        stale_after_ms: request.stale_after.map(millis),
        dead_after_ms: request.dead_after.map(millis),
        retry_for_ms: request
            .retry_for
            .map_or_else(|| seconds(tuning.retry_for_s), millis),
    }
}

/// Nobody waits for company that is carried alone.
fn items_of(request: &RequestPlan) -> usize {
    if request.spill_always && request.spill.is_some() {
        1
    } else {
        request.items_max
    }
}

fn seconds(s: u64) -> Millis {
    Millis::try_from(s.saturating_mul(1_000)).unwrap_or(Millis::MAX)
}

fn millis(span: std::time::Duration) -> Millis {
    Millis::try_from(span.as_millis()).unwrap_or(Millis::MAX)
}
