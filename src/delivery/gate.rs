//! May a request go out now? One gate per request, or shared by several. Pure: `now` is an argument.
//!
//! *Open*: yes. *Waiting*: the vendor asked for a pause, or failed several times in a row; when the time is over one
//! request goes out alone and decides. *Paused*: the vendor will have none of it (401, 403, 404, a redirect …): the
//! backlog is kept, one request a minute (or as seldom as the vendor's reader says) looks whether that has changed, and
//! an admin may have it look at once.

use crate::clock::Millis;

/// So many failures in a row, without one success, close the gate.
const FAILURES_MAX: u32 = 3;

/// A paused integration is tried this often.
const PROBE_EVERY_MS: Millis = 60_000;

/// Why an integration is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Paused {
    /// `unauthorized`, `forbidden`, `not_found`, `redirect`, `blocked`, …
    pub reason: &'static str,
    /// What the vendor said.
    pub detail: String,
    /// Since when.
    pub since_ms: Millis,
}

#[derive(Debug)]
enum State {
    Open,
    Waiting {
        until_ms: Millis,
    },
    Probing,
    Paused {
        why: Paused,
        every_ms: Millis,
        probe_ms: Millis,
        probing: bool,
    },
}

/// The gate.
#[derive(Debug)]
pub(crate) struct Gate {
    state: State,
    failures: u32,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Open,
            failures: 0,
        }
    }

    /// May a request go out, `in_flight` being under way? Call [`Gate::sent`] when one does.
    pub(crate) fn admits(&self, now_ms: Millis, in_flight: usize) -> bool {
        match &self.state {
            State::Open => true,
            State::Waiting { until_ms } => in_flight == 0 && now_ms >= *until_ms,
            State::Probing => false,
            State::Paused {
                probe_ms, probing, ..
            } => !probing && in_flight == 0 && now_ms >= *probe_ms,
        }
    }

    /// A request went out. True when it is the one that decides.
    pub(crate) fn sent(&mut self) -> bool {
        match &mut self.state {
            State::Open => false,
            State::Waiting { .. } | State::Probing => {
                self.state = State::Probing;
                true
            }
            State::Paused { probing, .. } => {
                *probing = true;
                true
            }
        }
    }

    /// The vendor answered for the events' sake: taken or refused, but it works.
    pub(crate) fn works(&mut self) {
        self.failures = 0;
        match &self.state {
            // An answer to a request sent before the gate closed says nothing about now.
            State::Open | State::Waiting { .. } | State::Paused { probing: false, .. } => {}
            State::Probing | State::Paused { probing: true, .. } => self.state = State::Open,
        }
    }

    /// No answer, or one that says "later". `asked`: the vendor named a time.
    pub(crate) fn failed(&mut self, now_ms: Millis, wait_ms: Millis, asked: bool) {
        self.failures = self.failures.saturating_add(1);
        let until_ms = now_ms.saturating_add(wait_ms);
        match &mut self.state {
            State::Open => {
                if asked || self.failures >= FAILURES_MAX {
                    self.state = State::Waiting { until_ms };
                }
            }
            State::Probing => self.state = State::Waiting { until_ms },
            State::Waiting { until_ms: until } => *until = until_ms.max(*until),
            State::Paused {
                every_ms,
                probe_ms,
                probing,
                ..
            } => {
                if std::mem::take(probing) {
                    *probe_ms = now_ms.saturating_add(*every_ms);
                }
            }
        }
    }

    /// Is the request under way that decides?
    pub(crate) fn probes(&self) -> bool {
        matches!(
            self.state,
            State::Probing | State::Paused { probing: true, .. }
        )
    }

    /// Until when the vendor wants to be left alone, if it does.
    pub(crate) fn waits_ms(&self) -> Option<Millis> {
        match &self.state {
            State::Waiting { until_ms } => Some(*until_ms),
            State::Open | State::Probing | State::Paused { .. } => None,
        }
    }

    /// It was asked for, before this gate was there, to leave the vendor alone until then.
    pub(crate) fn wait(&mut self, until_ms: Millis) {
        match &mut self.state {
            State::Open => self.state = State::Waiting { until_ms },
            State::Waiting { until_ms: until } => *until = until_ms.max(*until),
            State::Probing | State::Paused { .. } => {}
        }
    }

    /// Failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// The vendor will have none of it. `look_after_ms`: how long until somebody looks, where it is not as usual.
    pub(crate) fn pause(
        &mut self,
        now_ms: Millis,
        reason: &'static str,
        detail: String,
        look_after_ms: Option<Millis>,
    ) {
        let every_ms = look_after_ms.unwrap_or(PROBE_EVERY_MS);
        let since_ms = match &self.state {
            State::Paused { why, .. } => why.since_ms,
            _ => now_ms,
        };
        self.state = State::Paused {
            why: Paused {
                reason,
                detail,
                since_ms,
            },
            every_ms,
            probe_ms: now_ms.saturating_add(every_ms),
            probing: false,
        };
    }

    /// An admin says: try now.
    pub(crate) fn resume(&mut self, now_ms: Millis) {
        match &mut self.state {
            State::Waiting { until_ms } => *until_ms = now_ms,
            State::Paused { probe_ms, .. } => *probe_ms = now_ms,
            State::Open | State::Probing => {}
        }
    }

    /// Why it is paused, if it is.
    pub(crate) fn paused(&self) -> Option<&Paused> {
        match &self.state {
            State::Paused { why, .. } => Some(why),
            _ => None,
        }
    }

    /// Until when it is closed, if it opens by time.
    pub(crate) fn wakes_ms(&self) -> Option<Millis> {
        match &self.state {
            State::Open | State::Probing => None,
            State::Waiting { until_ms } => Some(*until_ms),
            State::Paused {
                probe_ms, probing, ..
            } => (!probing).then_some(*probe_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_failure_closes_nothing_three_in_a_row_do() {
        let mut gate = Gate::new();
        gate.failed(0, 100, false);
        gate.failed(0, 100, false);
        gate.works();
        gate.failed(0, 100, false);
        gate.failed(0, 100, false);
        assert!(gate.admits(0, 3));
        gate.failed(0, 100, false);
        assert!(!gate.admits(99, 0));
        assert_eq!(gate.wakes_ms(), Some(100));
    }

    #[test]
    fn after_an_outage_one_request_decides() {
        let mut gate = Gate::new();
        gate.failed(0, 5_000, true);
        assert!(!gate.admits(5_000, 2), "others are still under way");
        assert!(gate.admits(5_000, 0));
        assert!(gate.sent());
        assert!(!gate.admits(9_000, 1) && !gate.admits(9_000, 0));
        gate.failed(9_000, 1_000, false);
        assert!(!gate.admits(9_999, 0) && gate.admits(10_000, 0));
        gate.sent();
        gate.works();
        assert!(gate.admits(10_000, 3) && gate.failures() == 0);
    }

    #[test]
    fn a_late_success_does_not_cut_the_wait_short() {
        let mut gate = Gate::new();
        gate.failed(0, 60_000, true);
        gate.works();
        assert!(!gate.admits(59_999, 0));
        gate.failed(1_000, 10, true);
        assert!(
            !gate.admits(59_999, 0),
            "a shorter wait does not replace a longer one"
        );
    }

    #[test]
    fn a_paused_integration_is_tried_once_a_minute_or_when_told() {
        let mut gate = Gate::new();
        gate.pause(1_000, "unauthorized", "status 401".into(), None);
        gate.works();
        assert!(!gate.admits(60_999, 0) && gate.admits(61_000, 0));
        assert!(gate.sent());
        assert!(!gate.admits(200_000, 0));
        gate.pause(62_000, "forbidden", "status 403".into(), None);
        let why = gate.paused().unwrap();
        assert_eq!((why.reason, why.since_ms), ("forbidden", 1_000));
        gate.resume(63_000);
        assert!(gate.admits(63_000, 0));
        gate.sent();
        gate.failed(64_000, 1, true);
        assert!(gate.paused().is_some() && !gate.admits(123_999, 0));
        assert!(gate.admits(124_000, 0));
        gate.sent();
        gate.works();
        assert!(gate.paused().is_none() && gate.admits(124_000, 5));
    }

    #[test]
    fn a_pause_that_takes_people_is_looked_at_less_often() {
        let mut gate = Gate::new();
        gate.pause(0, "not_enough_credits", "402".into(), Some(3_600_000));
        assert!(!gate.admits(3_599_999, 0) && gate.admits(3_600_000, 0));
        gate.sent();
        gate.failed(3_600_000, 1, false);
        assert!(!gate.admits(7_199_999, 0) && gate.admits(7_200_000, 0));
    }
}
