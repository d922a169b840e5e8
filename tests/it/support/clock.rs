//! A clock that runs fast: vendors' waits of seconds and minutes pass in a test's time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use aqueduct::clock::{Clock, Millis, SystemClock};

/// The machine's clock from when it was made on, so many times as fast.
#[derive(Debug)]
pub(crate) struct Brisk {
    began: Instant,
    base_ms: Millis,
    times: u32,
    /// What was skipped.
    ahead_ms: AtomicI64,
}

impl Brisk {
    pub(crate) fn new(times: u32) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            base_ms: SystemClock.now_ms(),
            times,
            ahead_ms: AtomicI64::new(0),
        })
    }

    /// Skips a time in which nothing happens.
    pub(crate) fn skip(&self, span: Duration) {
        let ms = Millis::try_from(span.as_millis()).expect("a test ends");
        self.ahead_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Brisk {
    fn now_ms(&self) -> Millis {
        let passed = self.began.elapsed() * self.times;
        let passed_ms = Millis::try_from(passed.as_millis()).expect("a test ends");
        self.base_ms + passed_ms + self.ahead_ms.load(Ordering::SeqCst)
    }

    fn timer(&self, span: Duration) -> Duration {
        // Below a millisecond timers only burn time.
        (span / self.times).max(Duration::from_millis(1))
    }
}
