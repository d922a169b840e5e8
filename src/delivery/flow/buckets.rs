//! How often a request may be sent: the windows a blueprint declares, and what the vendor's own headers say. Pure.
//!
//! A request counts from the moment it is sent until a whole window after it was *answered*: whenever in between the
//! vendor counted it, no window of the vendor's (sliding, aligned or a token bucket) holds more than it may. This holds
//! through restarts: see `lease` and `kept`.

use std::collections::VecDeque;

use crate::clock::Millis;
use crate::vendor::replies::Room;

mod kept;
mod lease;

pub(super) use kept::Kept;
use lease::{Amount, Lease};

/// A window's log is kept in this many steps: memory stays small however much a window holds.
const STEPS: Millis = 1_000;

/// After a 429 without a hint the windows shrink to half, and grow back by an eighth each time this has passed.
const RECOVERY_STEP_MS: Millis = 15_000;

/// Answers of requests sent together say the same 429: within this time they count once.
const SLOWED_AGAIN_MS: Millis = 1_000;

/// Two headers speak of the same window when their resets differ by no more (they are whole seconds).
const SAME_RESET_MS: Millis = 1_500;

/// Eighths of the full rate.
const FULL: u64 = 8;

/// How much may go out in a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Window {
    /// The span.
    pub per_ms: Millis,
    /// Requests in it.
    pub requests: Option<u64>,
    /// Items in it.
    pub items: Option<u64>,
}

/// Requests answered, and until when they count.
#[derive(Debug, Clone, Copy)]
struct Spent {
    until_ms: Millis,
    requests: u64,
    items: u64,
}

#[derive(Debug, Clone)]
struct Log {
    window: Window,
    spent: VecDeque<Spent>,
    requests: u64,
    items: u64,
}

/// What a header said, less what went out since.
#[derive(Debug, Clone, Copy)]
struct Left {
    limit: u64,
    left: u64,
    until_ms: Millis,
}

/// The rate of one request of one integration. Handed on when a pipeline begins anew, written down for when the
/// process does.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Bucket {
    declared: Vec<Window>,
    logs: Vec<Log>,
    vendor: Vec<Left>,
    under_way_requests: u64,
    under_way_items: u64,
    /// Eighths of the rate in use, and since when.
    share: Option<(u64, Millis)>,
    /// When the last answer came.
    answered_ms: Option<Millis>,
    /// Nothing goes out before.
    closed_ms: Millis,
    /// How much may go out before it is written down; none where nothing is.
    lease: Option<Lease>,
}

impl Bucket {
    pub(in super::super) fn new(windows: &[Window]) -> Self {
        Self {
            declared: windows.to_vec(),
            logs: windows.iter().map(|window| Log::new(*window)).collect(),
            ..Self::default()
        }
    }

    /// Takes over what an earlier bucket of the same request knew. Whatever it still had under way counts as
    /// answered now.
    pub(in super::super) fn take_over(&mut self, mut earlier: Self, now_ms: Millis) {
        let (requests, items) = (earlier.under_way_requests, earlier.under_way_items);
        for log in &mut earlier.logs {
            log.spend(now_ms, requests, items);
        }
        earlier.under_way_requests = 0;
        earlier.under_way_items = 0;
        earlier.lease = None;
        if requests > 0 {
            earlier.answered_ms = Some(now_ms);
        }
        earlier.redeclare(&self.declared);
        *self = earlier;
    }

    /// These windows are declared from now on: what the vendor said holds all the same, and what was sent lately
    /// counts.
    pub(super) fn redeclare(&mut self, windows: &[Window]) {
        if self.declared == windows {
            return;
        }
        let earlier = std::mem::replace(&mut self.logs, Self::new(windows).logs);
        for log in &mut self.logs {
            let known = earlier
                .iter()
                .find(|known| known.window.per_ms == log.window.per_ms);
            if let Some(known) = known {
                log.spent.clone_from(&known.spent);
                (log.requests, log.items) = (known.requests, known.items);
            }
        }
        self.declared = windows.to_vec();
    }

    /// What another bucket knows was sent, and what it was told, count here too.
    pub(super) fn absorb(&mut self, other: &Self) {
        for log in &mut self.logs {
            let known = other
                .logs
                .iter()
                .find(|known| known.window.per_ms == log.window.per_ms);
            if let Some(known) = known {
                let mut spent: Vec<Spent> =
                    log.spent.drain(..).chain(known.spent.clone()).collect();
                spent.sort_by_key(|spent| spent.until_ms);
                log.spent = spent.into();
                log.requests += known.requests;
                log.items += known.items;
            }
        }
        self.vendor.extend(other.vendor.iter().copied());
    }

    /// Nobody will tell of the answers of these: they count as answered now.
    pub(super) fn given_up(&mut self, now_ms: Millis, requests: u64, items: u64) {
        self.under_way_requests = self.under_way_requests.saturating_sub(requests);
        self.under_way_items = self.under_way_items.saturating_sub(items);
        for log in &mut self.logs {
            log.spend(now_ms, requests, items);
        }
    }

    /// May a request with so many items go out?
    pub(super) fn admits(&mut self, now_ms: Millis, items: u64) -> bool {
        now_ms >= self.closed_ms && self.is_covered(items) && self.has_room(now_ms, items)
    }

    pub(super) fn is_leased(&self) -> bool {
        self.lease.is_some()
    }

    /// Does the journal know of it in advance, should it be sent?
    fn is_covered(&self, items: u64) -> bool {
        self.lease.is_none_or(|lease| lease.covers(items))
    }

    /// Would a request with so many items keep within the windows?
    pub(super) fn has_room(&mut self, now_ms: Millis, items: u64) -> bool {
        self.forget(now_ms);
        let share = self.share(now_ms);
        self.vendor.iter().all(|vendor| vendor.left > 0)
            && self.logs.iter().all(|log| {
                log.fits(
                    share,
                    (self.under_way_requests, self.under_way_items),
                    (log.requests, log.items),
                    items,
                )
            })
    }

    /// A request went out.
    pub(super) fn sent(&mut self, items: u64) {
        self.under_way_requests += 1;
        self.under_way_items += items;
        if let Some(lease) = &mut self.lease {
            lease.sent(items);
        }
        for vendor in &mut self.vendor {
            vendor.left = vendor.left.saturating_sub(1);
        }
    }

    /// It did not after all.
    pub(super) fn unsent(&mut self, items: u64) {
        self.under_way_requests = self.under_way_requests.saturating_sub(1);
        self.under_way_items = self.under_way_items.saturating_sub(items);
        for vendor in &mut self.vendor {
            vendor.left += 1;
        }
    }

    /// It was answered, or given up.
    pub(super) fn answered(&mut self, now_ms: Millis, items: u64) {
        self.under_way_requests = self.under_way_requests.saturating_sub(1);
        self.under_way_items = self.under_way_items.saturating_sub(items);
        self.answered_ms = Some(now_ms);
        for log in &mut self.logs {
            log.spend(now_ms, 1, items);
        }
    }

    /// The vendor said what is left; call it after [`Bucket::answered`].
    pub(super) fn adopt(&mut self, now_ms: Millis, room: Room) {
        self.learn_window(room);
        let wait_ms = Millis::try_from(room.reset.as_millis()).unwrap_or(Millis::MAX);
        // A window that ends "in 0 seconds" ends within this second.
        let until_ms = now_ms.saturating_add(if room.remaining == 0 {
            wait_ms.max(1_000)
        } else {
            wait_ms
        });
        // Those under way may not have been counted yet.
        let mut left = room.remaining.saturating_sub(self.under_way_requests);
        if let Some(known) = self
            .vendor
            .iter()
            .find(|known| known.limit == room.limit && now_ms < known.until_ms)
            && (known.until_ms - until_ms).abs() <= SAME_RESET_MS
        {
            left = left.min(known.left);
        }
        self.vendor.retain(|known| known.limit != room.limit);
        self.vendor.push(Left {
            limit: room.limit,
            left,
            until_ms,
        });
    }

    /// A header that fits no declared window says that the vendor counts otherwise than the blueprint believes.
    fn learn_window(&mut self, room: Room) {
        let counts = |log: &&mut Log| log.window.requests.is_some();
        if room.limit == 0
            || !self.logs.iter().any(|log| log.window.requests.is_some())
            || self
                .logs
                .iter()
                .any(|log| log.window.requests == Some(room.limit))
        {
            return;
        }
        let per_ms = match room.reset.as_secs() {
            0..=1 if room.limit <= 60 => 1_000,
            0..=60 => 60_000,
            _ => 3_600_000,
        };
        let same = self
            .logs
            .iter_mut()
            .filter(counts)
            .find(|log| log.window.per_ms == per_ms);
        if let Some(log) = same {
            log.window.requests = Some(room.limit);
            return;
        }
        self.logs.retain(|log| log.window.items.is_some());
        for log in &mut self.logs {
            log.window.requests = None;
        }
        self.logs.push(Log::new(Window {
            per_ms,
            requests: Some(room.limit),
            items: None,
        }));
    }

    /// The vendor said "too many" (429) without saying how many: half as fast for a while.
    pub(super) fn too_many(&mut self, now_ms: Millis) {
        let share = self.share(now_ms);
        match self.share {
            Some((_, since_ms)) if now_ms - since_ms < SLOWED_AGAIN_MS => {}
            _ => self.share = Some(((share / 2).max(1), now_ms)),
        }
    }

    fn share(&self, now_ms: Millis) -> u64 {
        self.share.map_or(FULL, |(share, since_ms)| {
            let steps = u64::try_from((now_ms - since_ms) / RECOVERY_STEP_MS).unwrap_or(0);
            share.saturating_add(steps).min(FULL)
        })
    }

    /// When a request with so many items may go out, nothing else being sent; none when an answer has to come first, or
    /// the journal has to store what was sent.
    pub(super) fn opens_ms(&mut self, now_ms: Millis, items: u64) -> Option<Millis> {
        self.forget(now_ms);
        if !self.is_covered(items) {
            return None;
        }
        let share = self.share(now_ms);
        let mut opens_ms = now_ms.max(self.closed_ms);
        for vendor in self.vendor.iter().filter(|vendor| vendor.left == 0) {
            opens_ms = opens_ms.max(vendor.until_ms);
        }
        for log in &self.logs {
            let under_way = (self.under_way_requests, self.under_way_items);
            let (mut requests, mut spent) = (log.requests, log.items);
            let mut log_ms = now_ms;
            let mut waiting = log.spent.iter();
            while !log.fits(share, under_way, (requests, spent), items) {
                let next = waiting.next()?;
                requests = requests.saturating_sub(next.requests);
                spent = spent.saturating_sub(next.items);
                log_ms = next.until_ms;
            }
            opens_ms = opens_ms.max(log_ms);
        }
        Some(opens_ms)
    }

    fn forget(&mut self, now_ms: Millis) {
        self.vendor.retain(|vendor| now_ms < vendor.until_ms);
        for log in &mut self.logs {
            while let Some(first) = log.spent.front().copied()
                && first.until_ms <= now_ms
            {
                log.requests = log.requests.saturating_sub(first.requests);
                log.items = log.items.saturating_sub(first.items);
                log.spent.pop_front();
            }
        }
    }
}

impl Log {
    fn new(window: Window) -> Self {
        Self {
            window,
            spent: VecDeque::new(),
            requests: 0,
            items: 0,
        }
    }

    fn fits(&self, share: u64, under_way: (u64, u64), spent: (u64, u64), items: u64) -> bool {
        let within = |limit: Option<u64>, used: u64, more: u64| {
            // A request larger than the whole window goes alone.
            limit.is_none_or(|limit| used == 0 || used + more <= (limit * share / FULL).max(1))
        };
        within(self.window.requests, under_way.0 + spent.0, 1)
            && within(self.window.items, under_way.1 + spent.1, items)
    }

    fn spend(&mut self, now_ms: Millis, requests: u64, items: u64) {
        if requests == 0 {
            return;
        }
        // Steps are rounded up: nothing is forgotten early.
        let step = (self.window.per_ms / STEPS).max(1);
        let until_ms = now_ms.saturating_add(self.window.per_ms);
        let until_ms = until_ms.div_euclid(step).saturating_add(1) * step - 1;
        let until_ms = if step == 1 {
            now_ms + self.window.per_ms
        } else {
            until_ms
        };
        self.requests += requests;
        self.items += items;
        match self.spent.back_mut() {
            Some(last) if last.until_ms >= until_ms => {
                last.requests += requests;
                last.items += items;
            }
            _ => self.spent.push_back(Spent {
                until_ms,
                requests,
                items,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn window(per_ms: Millis, requests: u64) -> Window {
        Window {
            per_ms,
            requests: Some(requests),
            items: None,
        }
    }

    fn room(limit: u64, remaining: u64, reset_s: u64) -> Room {
        Room {
            limit,
            remaining,
            reset: Duration::from_secs(reset_s),
        }
    }

    proptest! {
        /// Wherever between sending and answer the vendor counts a request, no window of it is ever overfull; and
        /// whoever waits until `opens_ms` is let through.
        #[test]
        fn no_window_of_the_vendor_is_overfull(
            calls in prop::collection::vec((0..400i64, 0..900i64, 0..1_000i64, 1..40u64), 1..300),
            requests in 1..12u64,
            items in 40..120u64,
            per_ms in 50..5_000i64,
        ) {
            let windows = [window(1_000, requests), Window { per_ms, requests: None, items: Some(items) }];
            let mut bucket = Bucket::new(&windows);
            let mut under_way: Vec<(Millis, u64)> = Vec::new();
            let mut counted: Vec<(Millis, u64)> = Vec::new();
            let mut now = 0;
            for (pause, took, when, n) in calls {
                now += pause;
                while !bucket.admits(now, n) {
                    let next = under_way.iter().map(|(at, _)| *at).min();
                    let opens = bucket.opens_ms(now, n);
                    prop_assert!(opens.is_none_or(|at| at > now));
                    let to = opens.into_iter().chain(next).min().unwrap();
                    now = to.max(now);
                    under_way.retain(|(at, n)| {
                        if *at <= now { bucket.answered(*at, *n); }
                        *at > now
                    });
                    if opens.is_some_and(|at| at <= now) && under_way.is_empty() {
                        prop_assert!(bucket.admits(now, n), "promised for {opens:?}, now {now}");
                    }
                }
                bucket.sent(n);
                under_way.push((now + took, n));
                counted.push((now + took * when / 1_000, n));
            }
            counted.sort_unstable();
            for (at, _) in &counted {
                let within = |per: Millis| counted.iter().filter(move |(t, _)| *t > at - per && t <= at);
                prop_assert!(within(1_000).count() as u64 <= requests);
                prop_assert!(within(per_ms).map(|(_, n)| n).sum::<u64>() <= items);
            }
        }
    }

    #[test]
    fn a_reset_of_seven_seconds_is_kept() {
        let mut bucket = Bucket::new(&[window(1_000, 10)]);
        assert!(bucket.admits(0, 1));
        bucket.sent(1);
        bucket.answered(100, 1);
        bucket.adopt(100, room(10, 0, 7));
        assert!(!bucket.admits(7_099, 1));
        assert_eq!(bucket.opens_ms(200, 1), Some(7_100));
        assert!(bucket.admits(7_100, 1));
    }

    #[test]
    fn what_the_vendor_counts_replaces_what_the_blueprint_believed() {
        // Believed to be among "all other endpoints" (100 an hour), the reply shows ten a second.
        let mut bucket = Bucket::new(&[window(3_600_000, 100)]);
        bucket.sent(1);
        bucket.answered(0, 1);
        bucket.adopt(0, room(10, 9, 1));
        let mut sent = 0;
        for now in 0..10_000 {
            if bucket.admits(now, 1) {
                bucket.sent(1);
                bucket.answered(now, 1);
                sent += 1;
            }
        }
        assert!((90..=101).contains(&sent), "{sent}");
        // A higher plan: the same window, twice as wide.
        let mut bucket = Bucket::new(&[window(1_000, 10), window(3_600_000, 36_000)]);
        bucket.adopt(0, room(20, 20, 1));
        let burst = (0..50)
            .filter(|_| {
                bucket.admits(0, 1) && {
                    bucket.sent(1);
                    true
                }
            })
            .count();
        assert_eq!(burst, 20);
    }

    #[test]
    fn too_many_halves_the_rate_and_time_restores_it() {
        let mut bucket = Bucket::new(&[window(1_000, 16)]);
        let burst = |bucket: &mut Bucket, now: Millis| {
            let mut n = 0;
            while bucket.admits(now, 1) {
                bucket.sent(1);
                n += 1;
            }
            (0..n).for_each(|_| bucket.answered(now, 1));
            n
        };
        assert_eq!(burst(&mut bucket, 0), 16);
        bucket.too_many(0);
        bucket.too_many(500);
        assert_eq!(burst(&mut bucket, 2_000), 8);
        assert_eq!(burst(&mut bucket, 16_000), 10);
        assert_eq!(burst(&mut bucket, 61_000), 16);
    }

    #[test]
    fn a_pipeline_begun_anew_knows_what_was_sent() {
        let mut before = Bucket::new(&[window(60_000, 5)]);
        (0..4).for_each(|_| before.sent(1));
        before.answered(1_000, 1);
        let mut bucket = Bucket::new(&[window(60_000, 5)]);
        bucket.take_over(before, 2_000);
        assert!(bucket.admits(2_000, 1));
        bucket.sent(1);
        assert!(!bucket.admits(60_000, 1) && bucket.admits(61_100, 1));
    }

    /// Writes down and reads again, as a restart does.
    fn restarted(before: &Bucket, leaving: bool, declared: &[Window], now_ms: Millis) -> Bucket {
        let text = serde_json::to_string(&before.kept(leaving)).unwrap();
        let mut bucket = Bucket::new(declared);
        let earlier = Bucket::of_kept(serde_json::from_str(&text).unwrap(), now_ms);
        bucket.take_over(earlier, now_ms);
        bucket.rest(0, !leaving, now_ms);
        bucket
    }

    #[test]
    fn a_process_begun_anew_knows_what_was_sent_and_what_a_header_said() {
        let windows = [window(1_000, 10), window(3_600_000, 40)];
        let mut before = Bucket::new(&windows);
        before.lease(4, 1);
        assert!(!before.admits(0, 1), "not before it is written down");
        before.noted();
        before.note_stored();
        for at in 0..4 {
            assert!(before.admits(at, 1));
            before.sent(1);
            before.answered(at, 1);
        }
        assert!(!before.admits(5, 1) && before.opens_ms(5, 1).is_none() && before.has_room(5, 1));
        let room = |bucket: &mut Bucket, now: Millis| {
            let mut n = 0;
            while bucket.admits(now, 1) {
                bucket.sent(1);
                n += 1;
            }
            (0..n).for_each(|_| bucket.answered(now, 1));
            n
        };
        // After an orderly end exactly what was sent counts; after a sudden one the lease, too, and the short window is
        // waited for.
        let mut bucket = restarted(&before, true, &windows, 2_000);
        let total: u64 = (2..8).map(|s| room(&mut bucket, s * 1_000)).sum();
        assert_eq!(total, 36);
        let mut bucket = restarted(&before, false, &windows, 2_000);
        assert_eq!(bucket.opens_ms(2_000, 1), Some(3_000));
        let total: u64 = (2..9).map(|s| room(&mut bucket, s * 1_000)).sum();
        assert_eq!(total, 32);
        // Other windows, and a clock set back: nothing counts for longer than its window.
        let mut bucket = restarted(&before, true, &[window(3_600_000, 6)], -9_000_000);
        assert_eq!(room(&mut bucket, -9_000_000), 2);
        assert!(bucket.admits(-9_000_000 + 3_610_000, 1));
        // What the vendor says is left.
        before.adopt(5, self::room(10, 0, 600));
        let mut bucket = restarted(&before, true, &windows, 2_000);
        assert_eq!(bucket.opens_ms(2_000, 1), Some(600_005));
    }

    #[test]
    fn a_window_of_many_steps_is_written_down_in_few_and_forgets_nothing_early() {
        let windows = [Window {
            per_ms: 60_000,
            requests: None,
            items: Some(14_000),
        }];
        let mut before = Bucket::new(&windows);
        for at in 0..500 {
            before.sent(20);
            before.answered(at * 100, 20);
        }
        let kept = serde_json::to_string(&before.kept(true)).unwrap();
        assert!(kept.len() < 1_500, "{kept}");
        let mut bucket = restarted(&before, true, &windows, 50_000);
        for at in (50_000..120_000).step_by(500) {
            for items in [1, 1_000, 4_001, 10_000] {
                assert!(
                    before.admits(at, items) || !bucket.admits(at, items),
                    "{at} {items}"
                );
            }
        }
        assert!(bucket.admits(120_000, 14_000));
    }
}
