//! The figures of the last hour, kept in memory: how many events came and where they went, sampled every ten seconds
//! from the journal's books and the metrics. Pages read it; nothing is counted for them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::Mutex;

use crate::clock::{Millis, SharedClock};
use crate::journal::Journal;

/// Time between samples.
const EVERY: Duration = Duration::from_secs(10);

/// Samples kept: an hour and one.
const KEPT: usize = 361;

/// What is sampled.
pub struct Sources {
    /// The books.
    pub journal: Journal,
    /// The metrics.
    pub prometheus: PrometheusHandle,
    /// What time it is.
    pub clock: SharedClock,
}

/// The samples.
#[derive(Default)]
pub struct Sampler(Mutex<VecDeque<Sample>>);

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler").finish_non_exhaustive()
    }
}

#[derive(Debug, Default, Clone)]
struct Sample {
    at_ms: Millis,
    accepted: u64,
    feeds: BTreeMap<String, Counts>,
}

#[derive(Debug, Default, Clone)]
struct Counts {
    delivered: u64,
    dead: u64,
    /// Deliveries by time from acceptance: (at most so many seconds, how many), cumulative.
    taken: Vec<(f64, u64)>,
}

/// One integration over the last hour.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Lately {
    pub(super) delivered: u64,
    pub(super) dead: u64,
    /// Seconds within which 95 of 100 deliveries were made.
    pub(super) p95_s: Option<f64>,
}

impl Sampler {
    /// Takes samples until dropped or aborted.
    pub async fn run(&self, sources: Sources) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Ok(ledger) = sources.journal.ledger().await else {
                continue;
            };
            let mut taken = delivery_buckets(&sources.prometheus.render());
            let sample = Sample {
                at_ms: sources.clock.now_ms(),
                accepted: *sources.journal.end().borrow(),
                feeds: ledger
                    .into_iter()
                    .map(|row| {
                        let counts = Counts {
                            delivered: row.delivered,
                            dead: row.dead.iter().map(|(_, n)| n).sum(),
                            taken: taken.remove(&row.feed).unwrap_or_default(),
                        };
                        (row.feed, counts)
                    })
                    .collect(),
            };
            self.push(sample);
        }
    }

    fn push(&self, sample: Sample) {
        let mut samples = self.0.lock();
        samples.push_back(sample);
        while samples.len() > KEPT {
            samples.pop_front();
        }
    }

    /// Events accepted in each of the last 60 minutes, the newest last.
    pub(super) fn accepted_by_minute(&self, now_ms: Millis) -> Vec<u64> {
        let mut minutes = vec![0; 60];
        let samples = self.0.lock();
        for (before, after) in samples.iter().zip(samples.iter().skip(1)) {
            let age = usize::try_from((now_ms - after.at_ms).max(0) / 60_000).unwrap_or(usize::MAX);
            if let Some(place) = 59_usize.checked_sub(age) {
                minutes[place] += after.accepted.saturating_sub(before.accepted);
            }
        }
        minutes
    }

    /// Since when there are samples, while that is less than the hour they are kept for.
    pub(super) fn since(&self) -> Option<Millis> {
        let samples = self.0.lock();
        let first = samples.front().map(|sample| sample.at_ms);
        first.filter(|_| samples.len() < KEPT)
    }

    /// An integration over the last hour, or since the start if that is nearer (see [`Self::since`]).
    pub(super) fn lately(&self, integration: &str) -> Lately {
        let samples = self.0.lock();
        let (Some(first), Some(last)) = (samples.front(), samples.back()) else {
            return Lately::default();
        };
        let nothing = Counts::default();
        let before = first.feeds.get(integration).unwrap_or(&nothing);
        let Some(after) = last.feeds.get(integration) else {
            return Lately::default();
        };
        Lately {
            delivered: after.delivered.saturating_sub(before.delivered),
            dead: after.dead.saturating_sub(before.dead),
            p95_s: quantile(&before.taken, &after.taken, 0.95),
        }
    }
}

/// The buckets of `aqueduct_delivery_seconds` by integration, out of the metrics' text.
fn delivery_buckets(text: &str) -> BTreeMap<String, Vec<(f64, u64)>> {
    let mut found: BTreeMap<String, Vec<(f64, u64)>> = BTreeMap::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("aqueduct_delivery_seconds_bucket{") else {
            continue;
        };
        let Some((labels, number)) = rest.split_once("} ") else {
            continue;
        };
        let label = |name: &str| {
            labels.split(',').find_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                (key == name).then(|| value.trim_matches('"').to_owned())
            })
        };
        let most = match label("le").as_deref() {
            Some("+Inf") => Some(f64::INFINITY),
            Some(most) => most.parse().ok(),
            None => None,
        };
        if let (Some(integration), Some(most), Ok(number)) =
            (label("integration"), most, number.trim().parse())
        {
            found.entry(integration).or_default().push((most, number));
        }
    }
    found
}

/// A quantile of what came between two states of a histogram, straight within its bucket. Of the last bucket, which
/// has no end, its beginning.
fn quantile(before: &[(f64, u64)], after: &[(f64, u64)], share: f64) -> Option<f64> {
    let earlier = |most: f64| {
        before
            .iter()
            .find(|(other, _)| *other == most)
            .map_or(0, |(_, number)| *number)
    };
    let grown: Vec<(f64, u64)> = after
        .iter()
        .map(|(most, number)| (*most, number.saturating_sub(earlier(*most))))
        .collect();
    let all = grown
        .last()
        .map(|(_, number)| *number)
        .filter(|all| *all > 0)?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share of a count, for the eye"
    )]
    let wanted = all as f64 * share;
    let mut below = (0.0, 0);
    for (most, number) in grown {
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        let (upto, from) = (number as f64, below.1 as f64);
        if upto >= wanted {
            if most.is_infinite() || upto <= from {
                return Some(below.0);
            }
            return Some(below.0 + (most - below.0) * (wanted - from) / (upto - from));
        }
        below = (most, number);
    }
    Some(below.0)
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Sample, Sampler, delivery_buckets, quantile};

    #[test]
    fn figures_say_since_when_until_they_are_of_a_whole_hour() {
        let sampler = Sampler::default();
        assert_eq!(sampler.since(), None);
        for tick in 0..KEPT + 1 {
            assert_eq!(sampler.since(), (1..KEPT).contains(&tick).then_some(7_000));
            sampler.push(Sample {
                at_ms: 7_000 + i64::try_from(tick).unwrap() * 10_000,
                ..Sample::default()
            });
        }
    }

    #[test]
    fn the_metrics_text_gives_buckets_and_they_give_the_quantile() {
        let text = "# TYPE aqueduct_delivery_seconds histogram\n\
            aqueduct_delivery_seconds_bucket{integration=\"int_a\",le=\"0.1\"} 90\n\
            aqueduct_delivery_seconds_bucket{integration=\"int_a\",le=\"0.5\"} 100\n\
            aqueduct_delivery_seconds_bucket{integration=\"int_a\",le=\"+Inf\"} 100\n\
            aqueduct_delivery_seconds_sum{integration=\"int_a\"} 5\n";
        let buckets = delivery_buckets(text);
        let p95 = quantile(&[], &buckets["int_a"], 0.95).unwrap();
        assert!((p95 - 0.3).abs() < 1e-9, "{p95}");
        assert_eq!(quantile(&buckets["int_a"], &buckets["int_a"], 0.95), None);
    }

    #[test]
    fn minutes_hold_what_came_in_them() {
        let sampler = Sampler::default();
        for (at_ms, accepted) in [(0, 5), (10_000, 8), (70_000, 18), (130_000, 19)] {
            sampler.push(Sample {
                at_ms,
                accepted,
                ..Sample::default()
            });
        }
        let minutes = sampler.accepted_by_minute(130_000);
        assert_eq!(minutes[57..], [3, 10, 1]);
    }
}
