//! Rate windows: so many in so long, counted from the first that came in. Pure.
//!
//! A window opens with the first request after the last one closed, so a client that holds to the rate over every
//! span of that length is never refused. Real networks bunch requests up: a window closes `grace` early, so that
//! two bursts sent a whole window apart do not meet in one because the second travelled faster.

use serde::{Deserialize, Serialize};

use crate::clock::Millis;

/// A vendor's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// So many.
    pub limit: u64,
    /// In so long, in milliseconds.
    pub per_ms: u64,
}

impl Window {
    /// `limit` in `per_ms` milliseconds.
    #[must_use]
    pub const fn new(limit: u64, per_ms: u64) -> Self {
        Self { limit, per_ms }
    }

    fn length(&self, grace_ms: u64) -> Millis {
        Millis::try_from(self.per_ms.saturating_sub(grace_ms).max(1)).unwrap_or(Millis::MAX)
    }
}

/// What is left in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The window's limit.
    pub limit: u64,
    /// How many more it takes.
    pub remaining: u64,
    /// Until it closes, in milliseconds.
    pub reset_ms: u64,
}

/// What has been used of one window. 16 bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meter {
    opened_ms: Millis,
    used: u64,
}

impl Meter {
    /// What is left now.
    #[must_use]
    pub fn room(&self, window: &Window, now_ms: Millis, grace_ms: u64) -> Room {
        let length = window.length(grace_ms);
        let age = now_ms.saturating_sub(self.opened_ms);
        let open = self.used > 0 && age < length;
        let used = if open { self.used } else { 0 };
        let left = if open { length - age } else { length };
        Room {
            limit: window.limit,
            remaining: window.limit.saturating_sub(used),
            reset_ms: u64::try_from(left).unwrap_or(0),
        }
    }

    /// Uses `cost`, opening a window if none is open.
    pub fn add(&mut self, window: &Window, cost: u64, now_ms: Millis, grace_ms: u64) {
        let age = now_ms.saturating_sub(self.opened_ms);
        if self.used == 0 || age >= window.length(grace_ms) {
            *self = Self {
                opened_ms: now_ms,
                used: 0,
            };
        }
        self.used = self.used.saturating_add(cost);
    }

    /// Uses `cost` if there is room for it; whether there was.
    pub fn take(&mut self, window: &Window, cost: u64, now_ms: Millis, grace_ms: u64) -> bool {
        let has_room = self.room(window, now_ms, grace_ms).remaining >= cost;
        if has_room {
            self.add(window, cost, now_ms, grace_ms);
        }
        has_room
    }
}

/// Several windows over the same requests; all of them bind.
#[derive(Debug, Default)]
pub struct Meters(Vec<Meter>);

impl Meters {
    /// Uses one if every window has room. Answers whether, and the window with the least left.
    pub fn take(
        &mut self,
        windows: &[Window],
        now_ms: Millis,
        grace_ms: u64,
    ) -> (bool, Option<Room>) {
        self.0.resize(windows.len(), Meter::default());
        let has_room = windows
            .iter()
            .zip(&self.0)
            .all(|(window, meter)| meter.room(window, now_ms, grace_ms).remaining > 0);
        if has_room {
            for (window, meter) in windows.iter().zip(&mut self.0) {
                meter.add(window, 1, now_ms, grace_ms);
            }
        }
        (has_room, self.tightest(windows, now_ms, grace_ms))
    }

    /// The window with the least left.
    #[must_use]
    pub fn tightest(&self, windows: &[Window], now_ms: Millis, grace_ms: u64) -> Option<Room> {
        windows
            .iter()
            .enumerate()
            .map(|(index, window)| {
                let meter = self.0.get(index).copied().unwrap_or_default();
                meter.room(window, now_ms, grace_ms)
            })
            .min_by_key(|room| room.remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_opens_with_the_first_and_closes_after_its_length_less_the_grace() {
        let windows = [Window::new(2, 1_000), Window::new(3, 60_000)];
        let mut meters = Meters::default();
        let mut at = |now| meters.take(&windows, now, 100);
        assert!(at(5_000).0);
        assert_eq!(
            at(5_400),
            (
                true,
                Some(Room {
                    limit: 2,
                    remaining: 0,
                    reset_ms: 500
                })
            )
        );
        assert!(!at(5_899).0, "the short window is full");
        assert!(at(5_900).0, "and closes early by the grace");
        let (has_room, tightest) = at(8_000);
        assert!(!has_room, "the long one is full");
        assert_eq!(tightest.map(|room| room.reset_ms), Some(56_900));
        assert!(at(64_900).0);
    }
}
