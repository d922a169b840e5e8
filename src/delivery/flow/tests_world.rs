//! The flow in a world that does everything at once: pauses, retries, refusals one by one, what is missing, rates,
//! lanes, a small window. Whatever happens, nothing is lost, overtaken, sent too fast or too late.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::retry::Backoff;
use super::*;
use crate::blueprint::{ItemKeys, OnceKey};
use crate::journal::Parked;

const PACE_MS: Millis = 300;

fn rules(index: usize, name: &str, items_max: usize) -> Rules {
    let mut rules = Rules::plain(index, name);
    rules.limits.items_max = items_max;
    rules.retry_for_ms = 600_000;
    rules
}

/// 0 `track`: single, paced by lane, at a rate. 1 `bulk`: batches by lane, newest wins, what changed only, missing is
/// requeued. 2 `batch`: an hourly rate, spills to 3 `single`.
fn options() -> FlowOptions {
    let rate = |per_ms, requests| Window {
        per_ms,
        requests: Some(requests),
        items: None,
    };
    let mut track = rules(0, "track", 1);
    track.pace_ms = PACE_MS;
    track.rate = vec![rate(1_000, 8)];
    track.stale_after_ms = Some(400_000);
    let mut bulk = rules(1, "bulk", 6);
    bulk.newest = true;
    bulk.once_ms = Some(60_000);
    bulk.requeue_ms = vec![5_000, 50_000];
    bulk.rate = vec![Window {
        per_ms: 2_000,
        requests: None,
        items: Some(20),
    }];
    let mut batch = rules(2, "batch", 5);
    batch.rate = vec![rate(30_000, 2)];
    batch.spill = Some(3);
    let mut single = rules(3, "single", 1);
    single.lanes = 2;
    single.rate = vec![rate(1_000, 4)];
    FlowOptions {
        feed: "int_1".into(),
        requests: vec![track, bulk, batch, single],
        backoff: Backoff {
            base_ms: 500,
            cap_ms: 20_000,
        },
        hold_ms: None,
        backlog_age_ms: 7 * 24 * 3_600_000,
        window_events: 48,
        window_bytes: 1 << 20,
    }
}

/// What kind of event a seed makes: its requests, its person, its own time, its value.
#[derive(Debug, Clone, Copy)]
struct Kind {
    requests: u8,
    lane: u64,
    ts_ms: Millis,
    value: u8,
}

fn event(seq: Seq, kind: Kind, origin: Origin) -> Arrival {
    let part = |request: usize, keys: ItemKeys| Part {
        request,
        result: PartResult::Item {
            json: seq.to_string().into(),
            group: 0,
            keys,
        },
        notes: Vec::new(),
    };
    let lane = ItemKeys {
        lane: Some(kind.lane),
        ..ItemKeys::default()
    };
    let keyed = ItemKeys {
        newest: Some(u128::from(kind.lane)),
        once: Some(OnceKey {
            key: u128::from(kind.lane),
            value: u128::from(kind.value),
        }),
        ..lane
    };
    let parts = [(1, 0, lane), (2, 1, keyed), (4, 2, lane)]
        .into_iter()
        .filter(|(bit, _, _)| kind.requests & bit != 0)
        .map(|(_, request, keys)| part(request, keys))
        .collect();
    Arrival {
        seq,
        at_ms: 0,
        ts_ms: kind.ts_ms,
        record: Bytes::new(),
        origin,
        mapped: Ok(Mapping::Parts(parts)),
    }
}

fn seq_of(item: &Item) -> Seq {
    std::str::from_utf8(&item.json).unwrap().parse().unwrap()
}

struct UnderWay {
    job: Job,
    until_ms: Millis,
}

struct World {
    flow: Flow,
    kinds: Vec<Kind>,
    now_ms: Millis,
    parked: Vec<Parked>,
    /// Ever set apart: no order is promised any more.
    was_parked: Vec<bool>,
    ended: Vec<u32>,
    under_way: Vec<UnderWay>,
    /// Somebody behind them in their lane went first: they must not be sent any more.
    passed: BTreeSet<(usize, Seq)>,
    last_answered: BTreeMap<u64, Millis>,
    newest: BTreeMap<u64, (Millis, Seq)>,
    delivered: BTreeMap<(usize, Seq), u32>,
    /// By request: sent at, answered at, items.
    calls: [Vec<(Millis, Millis, usize)>; 4],
}

type Fault = Result<(), TestCaseError>;

impl World {
    fn new(kinds: Vec<Kind>) -> Self {
        let n = kinds.len();
        Self {
            flow: Flow::new(options()),
            kinds,
            now_ms: 0,
            parked: Vec::new(),
            was_parked: vec![false; n],
            ended: vec![0; n],
            under_way: Vec::new(),
            passed: BTreeSet::new(),
            last_answered: BTreeMap::new(),
            newest: BTreeMap::new(),
            delivered: BTreeMap::new(),
            calls: Default::default(),
        }
    }

    fn feed(&mut self, events: Vec<Arrival>) {
        let envelope = Envelope {
            key: 1,
            bytes: 20,
            tables: Default::default(),
        };
        let arrivals = Arrivals {
            envelopes: vec![envelope; 4],
            generation: 0,
            events,
        };
        self.flow.absorb(arrivals, self.now_ms);
    }

    fn kind(&self, item: &Item) -> Kind {
        self.kinds[usize::try_from(seq_of(item)).unwrap()]
    }

    /// Sends what may go, and looks at it with the vendor's eyes.
    fn send(&mut self, took: &mut impl FnMut() -> Millis) -> Fault {
        while let Some(job) = self.flow.next_job(self.now_ms) {
            let (request, items) = (job.batch.request, &job.batch.items);
            let space = [0, 1, 2, 2][request];
            prop_assert!(!items.is_empty() && items.len() <= [1, 6, 5, 1][request]);
            for item in items {
                let (seq, kind) = (seq_of(item), self.kind(item));
                for other in &self.under_way {
                    let theirs = [0, 1, 2, 2][other.job.batch.request];
                    let clash = theirs == space
                        && other
                            .job
                            .batch
                            .items
                            .iter()
                            .any(|other| other.lane == item.lane);
                    prop_assert!(!clash, "two requests of one lane under way");
                }
                if request == 0 {
                    let since = self.last_answered.get(&kind.lane);
                    prop_assert!(since.is_none_or(|at| self.now_ms >= at + PACE_MS));
                    prop_assert!(self.now_ms - kind.ts_ms <= 400_000);
                }
                if request == 1 {
                    let known = self.newest.get(&kind.lane);
                    prop_assert!(known.is_none_or(|known| *known <= (kind.ts_ms, seq)));
                }
                let overtaken = self.passed.contains(&(space, seq));
                prop_assert!(!overtaken || self.was_parked[usize::try_from(seq).unwrap()]);
                let part = if space == 2 { 2 } else { request };
                prop_assert_eq!(self.delivered.get(&(part, seq)), None, "delivered already");
            }
            self.pass(space, &job);
            let until_ms = self.now_ms + took();
            self.calls[request].push((self.now_ms, until_ms, items.len()));
            self.under_way.push(UnderWay { job, until_ms });
            for request in 0..4 {
                let n = self
                    .under_way
                    .iter()
                    .filter(|on| on.job.batch.request == request);
                prop_assert!(n.count() <= 3);
            }
        }
        let wakes = self.flow.wakes_ms(self.now_ms);
        prop_assert!(
            wakes.is_none_or(|at| at > self.now_ms),
            "woken for nothing at {}: {wakes:?}, lanes {:?}, batches {:?}, requests {:?}",
            self.now_ms,
            self.flow.lanes.next_due_ms(),
            self.flow.batcher.next_due_ms(),
            self.flow.requests(self.now_ms)
        );
        Ok(())
    }

    /// Notes whom the items of a job leave behind.
    fn pass(&mut self, space: usize, job: &Job) {
        let sent: BTreeSet<Seq> = job.batch.items.iter().map(seq_of).collect();
        for item in &job.batch.items {
            let earlier = (0..seq_of(item)).filter(|seq| {
                let kind = self.kinds[usize::try_from(*seq).unwrap()];
                kind.lane == self.kind(item).lane
                    && kind.requests & (1 << space) != 0
                    && !sent.contains(seq)
            });
            let earlier: Vec<_> = earlier.map(|seq| (space, seq)).collect();
            self.passed.extend(earlier);
        }
    }

    fn answer(&mut self, verdict: u8, chance: f64) {
        let next = (0..self.under_way.len()).min_by_key(|on| self.under_way[*on].until_ms);
        let Some(next) = next else { return };
        let UnderWay { job, until_ms } = self.under_way.swap_remove(next);
        self.now_ms = self.now_ms.max(until_ms);
        let (request, n) = (job.batch.request, job.batch.items.len());
        let part = if request == 3 { 2 } else { request };
        let mut status = 200;
        let verdict = match verdict {
            0 => HeardVerdict::All(Verdict::Retry { after: None }),
            1 => {
                status = 429;
                let after = Some(std::time::Duration::from_secs(3));
                HeardVerdict::All(Verdict::Retry { after })
            }
            2 => HeardVerdict::All(Verdict::Pause {
                reason: "forbidden",
            }),
            3 => HeardVerdict::All(if n % 2 == 0 {
                Verdict::Split
            } else {
                Verdict::Bisect
            }),
            8 => HeardVerdict::Each(
                (0..n)
                    .map(|index| match index % 3 {
                        0 => ItemVerdict::Wait {
                            after: std::time::Duration::from_secs(2),
                            times: 4,
                            reason: "in_process",
                        },
                        1 => ItemVerdict::Again,
                        _ => ItemVerdict::Delivered,
                    })
                    .collect(),
            ),
            4..8 => HeardVerdict::Each(
                (0..n)
                    .map(|index| match (index + usize::from(verdict)) % 5 {
                        0 => ItemVerdict::Skip("unknown"),
                        1 => ItemVerdict::Dead {
                            reason: "refused",
                            detail: "no".into(),
                        },
                        2 => ItemVerdict::Missing,
                        3 => ItemVerdict::Again,
                        _ => ItemVerdict::Delivered,
                    })
                    .collect(),
            ),
            _ => HeardVerdict::All(Verdict::Delivered),
        };
        for (index, item) in job.batch.items.iter().enumerate() {
            let (seq, kind) = (seq_of(item), self.kind(item));
            if request == 0 {
                self.last_answered.insert(kind.lane, self.now_ms);
            }
            let delivered = match &verdict {
                HeardVerdict::All(verdict) => *verdict == Verdict::Delivered,
                HeardVerdict::Each(each) => each[index] == ItemVerdict::Delivered,
            };
            if delivered {
                *self.delivered.entry((part, seq)).or_default() += 1;
                if request == 1 {
                    self.newest.insert(kind.lane, (kind.ts_ms, seq));
                }
            }
        }
        let heard = Heard {
            verdict,
            status: Some(status),
            answer: String::new(),
            note: None,
            if_all: None,
            look_after: None,
            slow: status == 429,
            look_up: false,
            room: None,
        };
        self.flow.heard(job, heard, self.now_ms, chance);
    }

    fn settle(&mut self) -> Fault {
        for reason in self.flow.take_woken() {
            for parked in self
                .parked
                .iter_mut()
                .filter(|parked| parked.reason == reason)
            {
                parked.due_ms = self.now_ms;
            }
        }
        let Some(settled) = self.flow.take_settle(Millis::MAX, false) else {
            return Ok(());
        };
        let settle = settled.settle;
        let runs = settle.done.iter().flat_map(|run| run.clone());
        let left: Vec<Seq> = runs.chain(settle.unpark.iter().copied()).collect();
        let tallied: u64 = settle.tallies.iter().map(|tally| tally.n).sum();
        prop_assert_eq!(left.len() as u64, tallied + settle.park.len() as u64);
        for seq in left {
            self.ended[usize::try_from(seq).unwrap()] += 1;
        }
        for parked in settle.park {
            let index = usize::try_from(parked.seq).unwrap();
            self.ended[index] -= 1;
            self.was_parked[index] = true;
            self.parked.push(parked);
        }
        self.flow.marks_stored(&settle.marks);
        Ok(())
    }

    /// Brings back what was set apart and is due.
    fn unpark(&mut self) {
        let room = self.flow.wants_parked();
        let now_ms = self.now_ms;
        self.parked
            .sort_by_key(|parked| (parked.due_ms, parked.seq));
        let due = self
            .parked
            .iter()
            .take_while(|parked| parked.due_ms <= now_ms);
        let due = due.count().min(room);
        let events = self.parked.drain(..due).collect::<Vec<_>>();
        let events = events.into_iter().map(|parked| {
            let origin = Origin::Parked {
                since_ms: parked.since_ms,
                attempts: parked.attempts,
                replay: None,
                reason: parked.reason,
                parts_done: parked.parts_done,
            };
            event(
                parked.seq,
                self.kinds[usize::try_from(parked.seq).unwrap()],
                origin,
            )
        });
        let events = events.collect();
        self.feed(events);
    }

    fn rates_kept(&self) -> Fault {
        let windows: [(Millis, usize, usize); 4] = [
            (1_000, 8, 99_999),
            (2_000, 99_999, 20),
            (30_000, 2, 99_999),
            (1_000, 4, 99_999),
        ];
        for (calls, (per_ms, requests, items)) in self.calls.iter().zip(windows) {
            // The vendor may count each when it is sent or when it is answered.
            for count in [
                |call: &(Millis, Millis, usize)| call.0,
                |call: &(Millis, Millis, usize)| call.1,
            ] {
                for call in calls {
                    let end = count(call);
                    let within = calls
                        .iter()
                        .filter(|call| count(call) > end - per_ms && count(call) <= end);
                    let (n, sum) = within.fold((0, 0), |(n, sum), call| (n + 1, sum + call.2));
                    prop_assert!(n <= requests && sum <= items, "{n} requests, {sum} items");
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn nothing_is_lost_overtaken_or_sent_too_fast(
        kinds in prop::collection::vec((1..8u8, 0..6u64, -3_000..3_000i64, 0..3u8), 1..150),
        answers in prop::collection::vec((0..24u8, 0.0..1.0f64, 1..900i64), 1..200),
    ) {
        let kinds = kinds.into_iter().enumerate().map(|(index, (requests, lane, jitter, value))| Kind {
            requests,
            lane,
            ts_ms: i64::try_from(index).unwrap() * 100 + jitter,
            value,
        });
        let kinds: Vec<Kind> = kinds.collect();
        let all = kinds.len();
        let mut world = World::new(kinds);
        let mut answers = answers.into_iter();
        let mut delays = [700, 40, 5, 300].into_iter().cycle();
        let mut fed = 0;
        let mut rounds = 0;
        while world.ended.contains(&0) {
            rounds += 1;
            prop_assert!(rounds < 20_000, "it never ends: {:?}", world.flow.requests(world.now_ms));
            if fed < all && world.flow.wants_fresh() {
                let upto = (fed + 7).min(all);
                let events = (fed..upto).map(|index| event(index as Seq, world.kinds[index], Origin::Fresh)).collect();
                fed = upto;
                world.feed(events);
            }
            if fed < all {
                world.flow.relieve(world.now_ms);
            }
            world.unpark();
            world.send(&mut || delays.next().unwrap_or(1))?;
            let wakes = world.flow.wakes_ms(world.now_ms);
            let first = world.under_way.iter().map(|on| on.until_ms).min();
            match (first, wakes) {
                (Some(first), wakes) if wakes.is_none_or(|wakes| first <= wakes) => {
                    let (verdict, chance, _) = answers.next().unwrap_or((23, 0.5, 1));
                    world.answer(verdict, chance);
                }
                (_, Some(wakes)) => world.now_ms = wakes,
                (_, None) => {
                    let due = world.parked.iter().map(|parked| parked.due_ms).min();
                    world.now_ms = due.unwrap_or(world.now_ms).max(world.now_ms + 1);
                }
            }
            world.settle()?;
        }
        prop_assert!(world.ended.iter().all(|ended| *ended == 1));
        prop_assert!(world.delivered.values().all(|n| *n == 1));
        prop_assert_eq!((world.flow.unsettled(), world.flow.slots.bytes), (0, 0));
        prop_assert!(world.flow.lines.iter().all(|line| line.items == 0 && line.in_flight == 0));
        world.rates_kept()?;
        // Long after, no lane is remembered.
        prop_assert!(world.flow.next_job(world.now_ms + 10_000).is_none());
        prop_assert_eq!(world.flow.lanes.len(), 0);
    }
}
