//! The one door to time: wall-clock milliseconds and monotonic instants, real or set by a test.
//!
//! Everything that decides by time takes a [`Clock`] (or a plain `now`), so tests move time by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = i64;

/// Tells what time it is.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Wall-clock time in Unix milliseconds.
    fn now_ms(&self) -> Millis;

    /// How long a timer has to wait for this clock to move on by `span`: less than `span` by a clock that runs fast.
    fn timer(&self, span: Duration) -> Duration {
        span
    }
}

/// A clock that can be shared between tasks.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the door the lint points to"
    )]
    fn now_ms(&self) -> Millis {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                i64::try_from(since.as_millis()).unwrap_or(Millis::MAX)
            })
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock showing `now_ms`.
    #[must_use]
    pub fn at(now_ms: Millis) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(now_ms)))
    }

    /// Moves the clock on by `ms` milliseconds.
    pub fn advance(&self, ms: Millis) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> Millis {
        self.0.load(Ordering::SeqCst)
    }
}
