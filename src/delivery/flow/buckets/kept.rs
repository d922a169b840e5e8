//! A rate as it is written down, and read again after a restart. Pure.

use serde::{Deserialize, Serialize};

use super::{Amount, Bucket, Left, Log, Spent, Window};
use crate::clock::Millis;

/// A window's log is written down in this many steps at most.
const STEPS_KEPT: usize = 24;

/// Windows up to this long are over before a killed process is back and has waited one of them.
pub(super) const SHORT_MS: Millis = 2_000;

/// The rate of a request, as stored. Persisted: fields may be added, with a default; none may change its meaning.
#[derive(Debug, Serialize, Deserialize)]
pub(in super::super) struct Kept {
    /// The declared windows.
    declared: Vec<Span>,
    /// Those in use, and what counts in them: until when, requests, items.
    logs: Vec<(Span, Vec<Step>)>,
    /// What headers said: the limit, what is left of it, until when.
    vendor: Vec<(u64, u64, Millis)>,
    /// Eighths of the rate in use, and since when.
    share: Option<(u64, Millis)>,
    /// Requests and items that count as sent when this is read.
    ahead: (u64, u64),
    /// When the last answer came.
    answered_ms: Option<Millis>,
}

/// A window: its length in milliseconds, requests, items.
type Span = (Millis, Option<u64>, Option<u64>);

/// What counts in a window: until when, requests, items.
type Step = (Millis, u64, u64);

fn span(window: &Window) -> Span {
    (window.per_ms, window.requests, window.items)
}

fn window((per_ms, requests, items): Span) -> Window {
    Window {
        per_ms: per_ms.max(1),
        requests,
        items,
    }
}

impl Bucket {
    /// What to write down. `leaving`: nothing is under way, and nothing goes out any more.
    pub(in super::super) fn kept(&self, leaving: bool) -> Kept {
        let lease = self.lease.filter(|_| !leaving).map(|lease| lease.size());
        let lease = lease.unwrap_or_default();
        Kept {
            declared: self.declared.iter().map(span).collect(),
            logs: self
                .logs
                .iter()
                .map(|log| (span(&log.window), log.coarse()))
                .collect(),
            vendor: self
                .vendor
                .iter()
                .map(|known| (known.limit, known.left, known.until_ms))
                .collect(),
            share: self.share,
            ahead: (
                self.under_way_requests + lease.requests,
                self.under_way_items + lease.items,
            ),
            answered_ms: self.answered_ms,
        }
    }

    /// What was written down, for [`Bucket::take_over`].
    pub(in super::super) fn of_kept(kept: Kept, now_ms: Millis) -> Self {
        let declared: Vec<Window> = kept.declared.into_iter().map(window).collect();
        let logs = kept.logs.into_iter().map(|(of, spent)| {
            let mut log = Log::new(window(of));
            // Whatever the clock did meanwhile, nothing counts for longer than its window.
            let latest_ms = now_ms.saturating_add(log.window.per_ms);
            for (until_ms, requests, items) in spent {
                log.requests = log.requests.saturating_add(requests);
                log.items = log.items.saturating_add(items);
                log.spent.push_back(Spent {
                    until_ms: until_ms.min(latest_ms),
                    requests,
                    items,
                });
            }
            log
        });
        let vendor = kept.vendor.into_iter().map(|(limit, left, until_ms)| Left {
            limit,
            // What was under way or has gone out since may have been counted by then.
            left: left.saturating_sub(kept.ahead.0),
            until_ms,
        });
        Self {
            logs: logs.collect(),
            vendor: vendor.collect(),
            under_way_requests: kept.ahead.0,
            under_way_items: kept.ahead.1,
            share: kept.share,
            answered_ms: kept.answered_ms.map(|at_ms| at_ms.min(now_ms)),
            declared,
            ..Self::default()
        }
    }

    /// From now on no more goes out than the journal knows of: so many requests with at most `items_max` items each
    /// between two notes, and never more than a quarter of a window.
    pub(in super::super) fn lease(&mut self, requests: u64, items_max: u64) {
        let long = || {
            let logs = self.logs.iter();
            logs.filter(|log| log.window.per_ms > SHORT_MS)
        };
        let quarter = |limit: Option<u64>| limit.map_or(u64::MAX, |limit| (limit / 4).max(1));
        let requests_max = quarter(long().filter_map(|log| log.window.requests).min());
        let spent_max = quarter(long().filter_map(|log| log.window.items).min());
        let requests = requests.clamp(1, requests_max);
        let size = Amount {
            requests,
            items: requests
                .saturating_mul(items_max)
                .min(spent_max)
                .max(items_max),
        };
        let size = (long().count() > 0).then_some(size);
        self.lease = Some(super::Lease::new(size));
    }

    /// Nothing goes out for `pace_ms` after the last answer; after a sudden end, of which nobody knows when it was,
    /// not within that or a short window from now either.
    pub(in super::super) fn rest(&mut self, pace_ms: Millis, sudden: bool, now_ms: Millis) {
        let paced_ms = match self.answered_ms {
            Some(at_ms) if !sudden => at_ms.saturating_add(pace_ms),
            _ => now_ms,
        };
        let mut closed_ms = paced_ms.min(now_ms.saturating_add(pace_ms));
        if sudden {
            let short = self.logs.iter().map(|log| log.window.per_ms);
            let short = short.filter(|per_ms| *per_ms <= SHORT_MS).max();
            closed_ms = now_ms.saturating_add(pace_ms.max(short.unwrap_or(0)));
        }
        self.closed_ms = closed_ms;
    }

    /// Does anything here have to be known after a restart?
    pub(in super::super) fn counts(&self, pace_ms: Millis) -> bool {
        pace_ms > 0 || !self.logs.is_empty()
    }

    /// Is it time to write down what was sent?
    pub(in super::super) fn wants_note(&self) -> bool {
        self.lease.is_some_and(|lease| lease.wants())
    }

    /// It was written down.
    pub(in super::super) fn noted(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.noted();
        }
    }

    /// What was written down is stored.
    pub(in super::super) fn note_stored(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.stored();
        }
    }
}

impl Log {
    /// What counts, in few steps; nothing is forgotten earlier than it would be.
    fn coarse(&self) -> Vec<Step> {
        let all: Vec<&Spent> = self.spent.iter().collect();
        let size = all.len().div_ceil(STEPS_KEPT).max(1);
        let steps = all.chunks(size).map(|chunk| {
            let requests = chunk.iter().map(|one| one.requests).sum();
            let items = chunk.iter().map(|one| one.items).sum();
            (chunk.last().map_or(0, |one| one.until_ms), requests, items)
        });
        steps.collect()
    }
}
