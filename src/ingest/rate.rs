//! A rate limit, of a source or of one of its keys: so many events a second in the mean, with a second's worth at once.
//!
//! A request is let in while any allowance is left, and then pays for all its events, into debt if need
//! be. So a batch larger than a second's allowance gets in like any other request, and the mean still
//! holds; a limiter that wants the whole price beforehand would refuse such a batch for ever.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::clock::Millis;

/// How much may be spent at once, in time.
const WINDOW_US: i64 = 1_000_000;

/// One limit. Lock-free.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: u32,
    /// The allowance is spent up to this moment (microseconds since 1970).
    spent_until_us: AtomicI64,
}

impl Rate {
    /// At most `per_second` events a second; zero is taken as one.
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            per_second: per_second.max(1),
            spent_until_us: AtomicI64::new(i64::MIN),
        }
    }

    /// The events a second it allows.
    pub(super) fn per_second(&self) -> u32 {
        self.per_second
    }

    /// Gives back what was taken for events that are not let in after all.
    pub(super) fn give_back(&self, events: usize) {
        self.spent_until_us
            .fetch_sub(self.price_us(events), Ordering::Relaxed);
    }

    /// How long `events` events use the allowance up, in microseconds.
    fn price_us(&self, events: usize) -> i64 {
        i64::try_from(events)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000)
            / i64::from(self.per_second)
    }

    /// Takes the allowance for `events` events, or says how long to wait, in milliseconds.
    pub(super) fn take(&self, events: usize, now_ms: Millis) -> Result<(), Millis> {
        let now_us = now_ms.saturating_mul(1_000);
        let price_us = self.price_us(events);
        let mut spent = self.spent_until_us.load(Ordering::Relaxed);
        loop {
            let wait_us = spent.saturating_sub(now_us.saturating_add(WINDOW_US)) + 1;
            if wait_us > 0 {
                return Err(wait_us.saturating_add(999) / 1_000);
            }
            let next = spent.max(now_us).saturating_add(price_us);
            match self.spent_until_us.compare_exchange_weak(
                spent,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(changed) => spent = changed,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rate;

    #[test]
    fn the_mean_holds_whatever_the_size_of_requests() {
        for size in [1, 7, 100, 2_500] {
            let rate = Rate::new(100);
            let (mut now, mut taken) = (1_000_000, 0);
            while now < 1_000_000 + 100_000 {
                match rate.take(size, now) {
                    Ok(()) => taken += size,
                    Err(wait) => now += wait,
                }
            }
            // 100 seconds at 100 a second, a second's worth at once, and one request's debt.
            assert!(taken >= 10_000, "{size}: {taken}");
            assert!(taken <= 10_000 + 100 + 2 * size, "{size}: {taken}");
        }
    }

    #[test]
    fn a_refused_request_is_let_in_after_the_wait_it_was_told() {
        let rate = Rate::new(10);
        assert_eq!(rate.take(30, 0), Ok(()));
        let wait = rate.take(1, 0).unwrap_err();
        assert_eq!(wait, 2_001);
        assert!(rate.take(1, wait - 2).is_err());
        assert_eq!(rate.take(1, wait), Ok(()));
    }
}
