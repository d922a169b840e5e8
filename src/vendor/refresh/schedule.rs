//! When to read a table document next. Pure: `now` and chance are arguments.

use std::time::Duration;

use crate::clock::Millis;

/// After a webhook the CDN may still serve the old document: look again after these times.
const AFTER_NOTICE_MS: [Millis; 5] = [0, 2_000, 5_000, 15_000, 45_000];

/// A burst of unknown keys asks for one reading at most this often.
const WANTED_EVERY_MS: Millis = 30_000;

/// Longest time between two readings, whatever failed.
const BACKOFF_FIRST_MS: Millis = 1_000;

/// What a reading gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// A new document, taken into use, with this revision when it is a number.
    Updated(Option<u64>),
    /// As before.
    Unchanged,
    /// Could not be read, or may not be used.
    Failed,
}

/// The timetable of one document.
#[derive(Debug)]
pub(super) struct Schedule {
    every_ms: Millis,
    next_ms: Millis,
    failures: u32,
    last_wanted_ms: Option<Millis>,
    /// Extra readings after a notice, and the revision that ends them.
    extra: Vec<Millis>,
    until: Option<u64>,
}

impl Schedule {
    /// First reading at `first_ms`, then every `every`.
    pub(super) fn new(every: Duration, first_ms: Millis) -> Self {
        Self {
            every_ms: Millis::try_from(every.as_millis())
                .unwrap_or(Millis::MAX)
                .clamp(1_000, 24 * 3_600_000),
            next_ms: first_ms,
            failures: 0,
            last_wanted_ms: None,
            extra: Vec::new(),
            until: None,
        }
    }

    /// When the next reading is due.
    pub(super) fn next_ms(&self) -> Millis {
        self.extra
            .iter()
            .copied()
            .min()
            .map_or(self.next_ms, |extra| extra.min(self.next_ms))
    }

    /// Somebody says there is something new (of that revision, if known).
    pub(super) fn poke(&mut self, now_ms: Millis, revision: Option<u64>) {
        self.extra = AFTER_NOTICE_MS.iter().map(|wait| now_ms + wait).collect();
        self.until = revision.max(self.until);
    }

    /// An event needs a row that is not there.
    pub(super) fn wanted(&mut self, now_ms: Millis) {
        if self
            .last_wanted_ms
            .is_none_or(|last| now_ms - last >= WANTED_EVERY_MS)
        {
            self.last_wanted_ms = Some(now_ms);
            self.next_ms = self.next_ms.min(now_ms);
        }
    }

    /// A reading ended at `now_ms`. `chance` in 0..1 spreads the next one over ± 10 %.
    pub(super) fn read(
        &mut self,
        now_ms: Millis,
        reading: Reading,
        current: Option<u64>,
        chance: f64,
    ) {
        self.extra.retain(|at| *at > now_ms);
        let reached = match (self.until, current) {
            (Some(wanted), Some(current)) => current >= wanted,
            _ => matches!(reading, Reading::Updated(_)),
        };
        if reached {
            self.extra.clear();
        }
        if self.extra.is_empty() {
            self.until = None;
        }
        let wait = match reading {
            Reading::Failed => {
                let wait = BACKOFF_FIRST_MS.saturating_mul(1 << self.failures.min(20));
                self.failures = self.failures.saturating_add(1);
                wait.min(self.every_ms)
            }
            Reading::Updated(_) | Reading::Unchanged => {
                self.failures = 0;
                self.every_ms
            }
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "at most a day in milliseconds"
        )]
        let spread = (wait as f64 * (0.9 + 0.2 * chance.clamp(0.0, 1.0))) as Millis;
        self.next_ms = now_ms + spread;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> Schedule {
        let mut schedule = Schedule::new(Duration::from_mins(1), 0);
        schedule.read(0, Reading::Updated(Some(1)), Some(1), 0.5);
        schedule
    }

    #[test]
    fn reads_every_minute_give_or_take_a_tenth() {
        for (chance, expected) in [(0.0, 54_000), (0.5, 60_000), (1.0, 66_000)] {
            let mut schedule = fresh();
            schedule.read(0, Reading::Unchanged, Some(1), chance);
            assert_eq!(schedule.next_ms(), expected);
        }
    }

    #[test]
    fn failures_wait_longer_each_time_but_no_longer_than_the_interval() {
        let mut schedule = fresh();
        let waits: Vec<_> = (0..8)
            .map(|_| {
                schedule.read(0, Reading::Failed, Some(1), 0.5);
                schedule.next_ms()
            })
            .collect();
        assert_eq!(
            waits,
            [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]
        );
    }

    #[test]
    fn a_notice_reads_again_until_the_revision_is_there() {
        let mut schedule = fresh();
        schedule.poke(1_000, Some(3));
        let mut times = Vec::new();
        // The CDN serves revision 2 at the third look and 3 at the fourth.
        for (reading, revision) in [
            (Reading::Unchanged, 1),
            (Reading::Unchanged, 1),
            (Reading::Updated(Some(2)), 2),
            (Reading::Updated(Some(3)), 3),
        ] {
            let now = schedule.next_ms();
            times.push(now);
            schedule.read(now, reading, Some(revision), 0.5);
        }
        assert_eq!(times, [1_000, 3_000, 6_000, 16_000]);
        assert_eq!(schedule.next_ms(), 76_000);
    }

    #[test]
    fn a_notice_that_never_comes_true_ends() {
        let mut schedule = fresh();
        schedule.poke(0, Some(99));
        for _ in 0..5 {
            let now = schedule.next_ms();
            schedule.read(now, Reading::Unchanged, Some(1), 0.5);
        }
        assert_eq!(schedule.next_ms(), 45_000 + 60_000);
    }

    #[test]
    fn unknown_keys_ask_at_most_every_thirty_seconds() {
        let mut schedule = fresh();
        schedule.wanted(1_000);
        assert_eq!(schedule.next_ms(), 1_000);
        schedule.read(1_000, Reading::Unchanged, Some(1), 0.5);
        schedule.wanted(1_001);
        schedule.wanted(30_999);
        assert_eq!(schedule.next_ms(), 61_000);
        schedule.wanted(31_000);
        assert_eq!(schedule.next_ms(), 31_000);
    }
}
