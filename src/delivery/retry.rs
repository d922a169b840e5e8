//! How long to wait before the next attempt. Pure: chance is an argument.

use std::time::Duration;

use crate::clock::Millis;

/// A wait the vendor asked for is stretched by up to a tenth of it …
const SPREAD: u64 = 10;

/// … and by no more than this.
const SPREAD_MS_MAX: u64 = 3_000;

/// Bounds of the waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    /// Bound of the first wait.
    pub base_ms: u64,
    /// Bound of every wait.
    pub cap_ms: u64,
}

impl Backoff {
    /// The wait after `failures` failures in a row: anything up to a bound that doubles each time ("full jitter"),
    /// but never less than the vendor asked for, and a little more: all who were told the same time come back apart.
    /// `chance` in 0..1.
    pub(crate) fn wait_ms(self, failures: u32, asked: Option<Duration>, chance: f64) -> Millis {
        let doublings = failures.saturating_sub(1).min(32);
        let bound = self
            .base_ms
            .saturating_mul(1 << doublings)
            .min(self.cap_ms)
            .max(1);
        let jittered = share(bound, chance);
        let asked = asked.map_or(0, |wait| {
            let asked_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            let spread = (asked_ms / SPREAD).min(SPREAD_MS_MAX);
            asked_ms.saturating_add(share(spread, chance))
        });
        Millis::try_from(jittered.max(1).max(asked)).unwrap_or(Millis::MAX)
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "chance is within 0..1 and the bound far below 2^52"
)]
fn share(bound: u64, chance: f64) -> u64 {
    (bound as f64 * chance.clamp(0.0, 1.0)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BACKOFF: Backoff = Backoff {
        base_ms: 500,
        cap_ms: 60_000,
    };

    #[test]
    fn the_bound_doubles_up_to_the_cap() {
        let bounds: Vec<_> = (1..=9).map(|n| BACKOFF.wait_ms(n, None, 1.0)).collect();
        assert_eq!(
            bounds,
            [
                500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000
            ]
        );
    }

    proptest! {
        #[test]
        fn waits_stay_within_bounds(failures: u32, chance in 0.0..1.0f64, asked in prop::option::of(0..3_600u64)) {
            let wait = BACKOFF.wait_ms(failures, asked.map(Duration::from_secs), chance);
            let least = Millis::try_from(asked.unwrap_or(0) * 1_000).unwrap();
            prop_assert!(wait >= 1 && wait >= least && wait <= (least + least / 10).max(60_000));
        }
    }
}
