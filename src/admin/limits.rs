//! How often a token may call, and how often an address may come with a token that does not work. Pure: knows no
//! HTTP, the time is handed in.
//!
//! Windows are fixed: what `RateLimit` says (so many left, all again in so many seconds) is then exactly so.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Millis;

/// Length of every window.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Tokens that do not work, per address and window; beyond it the address has to wait.
const FAILURES_MAX: u32 = 30;

/// Addresses and pairs remembered at once.
const REMEMBERED_MAX: usize = 10_000;

/// How one caller stands in its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Calls per window.
    pub(super) quota: u32,
    /// Calls left in this one.
    pub(super) left: u32,
    /// Whole seconds until the next one begins, rounded up.
    pub(super) reset_s: u64,
    /// This call is one too many.
    pub(super) refused: bool,
}

/// Who has called how often.
#[derive(Debug)]
pub(super) struct Limits {
    /// Calls per token and window; 0 = no limit.
    quota: u32,
    calls: Mutex<Windows<String>>,
    failures: Mutex<Windows<IpAddr>>,
    /// Tokens that worked, by address and hash: they go on when somebody else at their address guesses.
    proven: Mutex<HashMap<(IpAddr, [u8; 32]), Millis>>,
}

impl Limits {
    pub(super) fn new(quota: u32) -> Self {
        Self {
            quota,
            calls: Mutex::default(),
            failures: Mutex::default(),
            proven: Mutex::default(),
        }
    }

    /// Counts a call of a token; none when calls are not limited.
    pub(super) fn call(&self, token: &str, now_ms: Millis) -> Option<Standing> {
        if self.quota == 0 {
            return None;
        }
        let (n, reset_s) = self.calls.lock().count(token.to_owned(), now_ms);
        Some(Standing {
            quota: self.quota,
            left: self.quota.saturating_sub(n),
            reset_s,
            refused: n > self.quota,
        })
    }

    /// Seconds an address has to wait before a token of unknown worth is looked at; none when it need not.
    pub(super) fn wait(&self, address: IpAddr, token: &[u8; 32], now_ms: Millis) -> Option<u64> {
        let address = network(address);
        let (n, reset_s) = self.failures.lock().read(&address, now_ms)?;
        let is_proven = || self.proven.lock().contains_key(&(address, *token));
        (n >= FAILURES_MAX && !is_proven()).then_some(reset_s)
    }

    /// A token did not work.
    pub(super) fn failed(&self, address: IpAddr, token: &[u8; 32], now_ms: Millis) {
        let address = network(address);
        self.failures.lock().count(address, now_ms);
        // It may have worked before it was revoked.
        self.proven.lock().remove(&(address, *token));
    }

    /// A token worked.
    pub(super) fn worked(&self, address: IpAddr, token: [u8; 32], now_ms: Millis) {
        let mut proven = self.proven.lock();
        if proven.len() >= REMEMBERED_MAX {
            let oldest = now_ms.saturating_sub(24 * 3_600 * 1_000);
            proven.retain(|_, at_ms| *at_ms > oldest);
        }
        if proven.len() < REMEMBERED_MAX {
            proven.insert((network(address), token), now_ms);
        }
    }
}

/// Counts per key and window.
#[derive(Debug)]
struct Windows<K>(HashMap<K, (Millis, u32)>);

impl<K> Default for Windows<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Windows<K> {
    /// Counts one and returns the number in this window, and the seconds it still lasts.
    fn count(&mut self, key: K, now_ms: Millis) -> (u32, u64) {
        if self.0.len() >= REMEMBERED_MAX && !self.0.contains_key(&key) {
            self.0
                .retain(|_, (began_ms, _)| left_ms(*began_ms, now_ms) > 0);
            if self.0.len() >= REMEMBERED_MAX {
                return (1, WINDOW.as_secs());
            }
        }
        let entry = self.0.entry(key).or_insert((now_ms, 0));
        if left_ms(entry.0, now_ms) <= 0 {
            *entry = (now_ms, 0);
        }
        entry.1 = entry.1.saturating_add(1);
        (entry.1, seconds(left_ms(entry.0, now_ms)))
    }

    fn read(&self, key: &K, now_ms: Millis) -> Option<(u32, u64)> {
        let (began_ms, n) = self.0.get(key)?;
        let left = left_ms(*began_ms, now_ms);
        (left > 0).then(|| (*n, seconds(left)))
    }
}

/// Milliseconds a window still lasts; none left also when the clock was set back to before it began.
fn left_ms(began_ms: Millis, now_ms: Millis) -> Millis {
    let length = Millis::try_from(WINDOW.as_millis()).unwrap_or(Millis::MAX);
    if now_ms < began_ms {
        0
    } else {
        began_ms.saturating_add(length).saturating_sub(now_ms)
    }
}

fn seconds(ms: Millis) -> u64 {
    ms.unsigned_abs().div_ceil(1_000)
}

/// What stands for one guest: an IPv4 address, or an IPv6 network of /64, of which anybody may have all addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::{FAILURES_MAX, Limits, REMEMBERED_MAX, Standing};

    #[test]
    fn a_window_holds_its_quota_and_says_so() {
        let limits = Limits::new(2);
        let standing = |left, reset_s, refused| {
            Some(Standing {
                quota: 2,
                left,
                reset_s,
                refused,
            })
        };
        assert_eq!(limits.call("a", 1_000), standing(1, 60, false));
        assert_eq!(limits.call("a", 1_001), standing(0, 60, false));
        assert_eq!(limits.call("a", 60_500), standing(0, 1, true));
        assert_eq!(limits.call("b", 60_500), standing(1, 60, false));
        assert_eq!(limits.call("a", 61_000), standing(1, 60, false));
        // A clock that was set back begins anew.
        assert_eq!(limits.call("a", 5), standing(1, 60, false));
        assert_eq!(Limits::new(0).call("a", 0), None);
    }

    #[test]
    fn guesses_are_limited_and_tokens_that_work_are_not() {
        let limits = Limits::new(0);
        let (good, bad) = ([1; 32], [2; 32]);
        let here = "2001:db8::1".parse().unwrap();
        let beside = "2001:db8::ffff:1".parse().unwrap();
        let elsewhere = "2001:db8:0:1::1".parse().unwrap();
        limits.worked(here, good, 0);
        for _ in 0..FAILURES_MAX {
            assert_eq!(limits.wait(here, &bad, 10), None);
            limits.failed(here, &bad, 10);
        }
        assert_eq!(limits.wait(here, &bad, 11), Some(60));
        assert_eq!(limits.wait(beside, &bad, 11), Some(60));
        assert_eq!(limits.wait(here, &good, 11), None);
        assert_eq!(limits.wait(elsewhere, &bad, 11), None);
        assert_eq!(limits.wait(here, &bad, 60_010), None);
        limits.failed(here, &good, 12);
        assert_eq!(limits.wait(here, &good, 13), Some(60));
    }

    #[test]
    fn memory_is_bounded() {
        let limits = Limits::new(0);
        for n in 0..u32::try_from(REMEMBERED_MAX).unwrap() + 100 {
            let address = std::net::Ipv4Addr::from_bits(n).into();
            limits.failed(address, &[0; 32], 0);
            limits.worked(address, [0; 32], 0);
        }
        assert_eq!(limits.failures.lock().0.len(), REMEMBERED_MAX);
        assert_eq!(limits.proven.lock().len(), REMEMBERED_MAX);
    }
}
