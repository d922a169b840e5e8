//! The sandbox's clock: the handed-in one plus an offset set through the control API, so that an hour's bucket
//! or a seven-day rule can be tried without waiting.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::clock::{Clock, Millis, SharedClock};

/// A clock that can be moved on from outside.
#[derive(Debug)]
pub struct VirtualClock {
    base: SharedClock,
    offset_ms: AtomicI64,
}

impl VirtualClock {
    /// Shows what `base` shows until it is moved.
    #[must_use]
    pub fn new(base: SharedClock) -> Self {
        Self {
            base,
            offset_ms: AtomicI64::new(0),
        }
    }

    /// Moves the clock on by `ms` milliseconds. It never goes back.
    pub fn advance(&self, ms: u64) {
        let ms = Millis::try_from(ms).unwrap_or(Millis::MAX);
        let _ = self
            .offset_ms
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |offset| {
                Some(offset.saturating_add(ms))
            });
    }

    /// How far it was moved in all, in milliseconds.
    #[must_use]
    pub fn offset_ms(&self) -> Millis {
        self.offset_ms.load(Ordering::SeqCst)
    }
}

impl Clock for VirtualClock {
    fn now_ms(&self) -> Millis {
        self.base.now_ms().saturating_add(self.offset_ms())
    }
}
