//! How long a thread that mapped events rests, so that acceptance has the processors. Pure.
//!
//! What is accepted is safe in the journal and may go out a little later; a caller cannot wait. So while records wait
//! for their commit, a thread rests in proportion to how long it had to wait for a processor itself. With processors to
//! spare there is nothing to wait for, and no rest. The longer events lie there already, the less it gives way.

use std::time::Duration;

use crate::clock::Millis;

/// How far a thread gives way.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// To events up to this age.
    upto_ms: Millis,
    /// It rests this many times as long as it waited …
    times: u32,
    /// … but not longer.
    most: Duration,
}

/// Older ones rest no more: delivery goes on, however busy the machine.
const WAYS: [Way; 2] = [
    Way {
        upto_ms: 30_000,
        times: 32,
        most: Duration::from_millis(200),
    },
    Way {
        upto_ms: 600_000,
        times: 8,
        most: Duration::from_millis(50),
    },
];

/// How long to rest after `waited` for a processor, while acceptance is pressed. `age_ms`: of the oldest event mapped.
pub(super) fn after(waited: Duration, age_ms: Millis) -> Duration {
    WAYS.iter()
        .find(|way| age_ms <= way.upto_ms)
        .map_or(Duration::ZERO, |way| {
            waited.saturating_mul(way.times).min(way.most)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_events_lie_the_less_delivery_gives_way() {
        let ms = Duration::from_millis;
        assert_eq!(after(Duration::ZERO, 0), Duration::ZERO, "nobody was kept");
        assert_eq!(after(ms(2), 0), ms(64));
        assert_eq!(after(ms(100), 30_000), ms(200));
        assert_eq!(after(ms(2), 30_001), ms(16));
        assert_eq!(after(ms(100), 600_000), ms(50));
        assert_eq!(after(ms(100), 600_001), Duration::ZERO);
    }
}
