//! A flow that is stopped and killed again and again: what was settled stays settled, a part that was noted is not sent
//! again, and no window of the vendor's is ever overfull.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::retry::Backoff;
use super::*;
use crate::journal::feed::FeedState;

/// The windows of the first request: milliseconds, requests.
const WINDOWS: [(Millis, u64); 2] = [(1_000, 5), (20_000, 12)];

/// 0 `track`: single, at a rate. 1 `person`: in batches.
fn options() -> FlowOptions {
    let mut track = Rules::plain(0, "track");
    track.rate = WINDOWS
        .iter()
        .map(|(per_ms, requests)| Window {
            per_ms: *per_ms,
            requests: Some(*requests),
            items: None,
        })
        .collect();
    let mut person = Rules::plain(1, "person");
    person.limits.items_max = 4;
    FlowOptions {
        feed: "int_1".into(),
        requests: vec![track, person],
        backoff: Backoff {
            base_ms: 500,
            cap_ms: 20_000,
        },
        hold_ms: None,
        backlog_age_ms: 7 * 24 * 3_600_000,
        window_events: 4_096,
        window_bytes: 1 << 20,
    }
}

/// A request and a record: one part of one event.
type PartId = (usize, Seq);

struct World {
    flow: Flow,
    kinds: Vec<u64>,
    now_ms: Millis,
    under_way: Vec<Job>,
    /// The journal's side.
    feed: FeedState,
    /// Answered as taken, and not in the journal yet.
    unstored: Vec<PartId>,
    /// How often each part arrived, and how often it may have.
    arrived: BTreeMap<PartId, u32>,
    allowed: BTreeMap<PartId, u32>,
    /// When the vendor counted a request of the first kind.
    counted: Vec<Millis>,
    delivered: u64,
}

type Fault = Result<(), TestCaseError>;

impl World {
    fn new(kinds: Vec<u64>) -> Self {
        let mut world = Self {
            flow: Flow::new(options()),
            kinds,
            now_ms: 0,
            under_way: Vec::new(),
            feed: FeedState::default(),
            unstored: Vec::new(),
            arrived: BTreeMap::new(),
            allowed: BTreeMap::new(),
            counted: Vec::new(),
            delivered: 0,
        };
        world.begin();
        world
    }

    /// A process begins: what it knows is what the journal holds.
    fn begin(&mut self) {
        self.flow = Flow::new(options());
        self.flow.recall(&self.feed.note, Vec::new(), self.now_ms);
        self.flow.ended_earlier(self.feed.parts.clone());
        let envelope = Envelope {
            key: 1,
            bytes: 20,
            tables: Default::default(),
        };
        let seqs = 0..Seq::try_from(self.kinds.len()).unwrap();
        let events = seqs
            .zip(&self.kinds)
            .filter(|(seq, _)| self.feed.is_open(*seq));
        let events = events.map(|(seq, kind)| Arrival {
            seq,
            at_ms: 0,
            ts_ms: 0,
            record: Bytes::new(),
            origin: Origin::Fresh,
            mapped: Ok(Mapping::Parts(
                (0..2)
                    .filter(|request| kind & bit(*request) != 0)
                    .map(|request| Part {
                        request,
                        result: PartResult::Item {
                            json: seq.to_string().into(),
                            group: 0,
                            keys: ItemKeys::default(),
                        },
                        notes: Vec::new(),
                    })
                    .collect(),
            )),
        });
        let arrivals = Arrivals {
            envelopes: vec![envelope; 2],
            generation: 0,
            events: events.collect(),
        };
        self.flow.absorb(arrivals, self.now_ms);
    }

    fn send(&mut self) {
        while let Some(job) = self.flow.next_job(self.now_ms) {
            self.under_way.push(job);
        }
    }

    fn parts(job: &Job) -> Vec<PartId> {
        let seq = |item: &Item| std::str::from_utf8(&item.json).unwrap().parse().unwrap();
        let items = job.batch.items.iter();
        items.map(|item| (job.batch.request, seq(item))).collect()
    }

    /// The vendor gets a request and takes it.
    fn arrives(&mut self, job: &Job) {
        if job.batch.request == 0 {
            self.counted.push(self.now_ms);
        }
        for part in Self::parts(job) {
            *self.arrived.entry(part).or_default() += 1;
        }
    }

    fn answer(&mut self, verdict: Verdict, chance: f64) {
        if self.under_way.is_empty() {
            return;
        }
        let job = self.under_way.remove(0);
        if verdict == Verdict::Delivered {
            self.arrives(&job);
            self.unstored.extend(Self::parts(&job));
        } else if job.batch.request == 0 {
            self.counted.push(self.now_ms);
        }
        let heard = Heard {
            verdict: HeardVerdict::All(verdict),
            status: Some(200),
            answer: String::new(),
            note: None,
            if_all: None,
            look_after: None,
            slow: false,
            look_up: false,
            room: None,
        };
        self.flow.heard(job, heard, self.now_ms, chance);
    }

    /// A settle, if there is one; `stored`: it reaches the disk.
    fn commit(&mut self, leaving: bool, stored: bool) -> Result<bool, TestCaseError> {
        let Some(settled) = self.flow.take_settle(self.now_ms, leaving) else {
            return Ok(false);
        };
        if !stored {
            return Ok(true);
        }
        let settle = settled.settle;
        prop_assert!(settle.park.is_empty() && settle.unpark.is_empty());
        let end = Seq::try_from(self.kinds.len()).unwrap();
        self.feed
            .settle(&settle, end)
            .map_err(TestCaseError::fail)?;
        prop_assert!(self.feed.balances());
        let tallies = settle.tallies.iter();
        self.delivered += tallies.map(|tally| tally.n).sum::<u64>();
        self.unstored.clear();
        self.flow.marks_stored(&settle.marks);
        if settle.note.is_some() {
            self.flow.note_stored();
        }
        Ok(true)
    }

    /// The process is killed: what is under way arrives, its answers go nowhere. `torn`: a settle was on its way.
    fn kill(&mut self, torn: bool, stored: bool, down_ms: Millis) -> Fault {
        if torn {
            self.commit(false, stored)?;
        }
        for job in std::mem::take(&mut self.under_way) {
            self.arrives(&job);
            self.unstored.extend(Self::parts(&job));
        }
        for part in std::mem::take(&mut self.unstored) {
            *self.allowed.entry(part).or_default() += 1;
        }
        self.now_ms += down_ms;
        self.begin();
        Ok(())
    }

    /// The process is stopped: what is under way is answered, and settled.
    fn stop(&mut self, down_ms: Millis) -> Fault {
        self.commit(true, true)?;
        while !self.under_way.is_empty() {
            self.answer(Verdict::Delivered, 0.5);
        }
        while self.commit(true, true)? {}
        prop_assert!(
            self.unstored.is_empty(),
            "an orderly stop leaves nothing unknown"
        );
        self.now_ms += down_ms;
        self.begin();
        Ok(())
    }

    fn rates_kept(&self) -> Fault {
        for (per_ms, requests) in WINDOWS {
            for at_ms in &self.counted {
                let within = self.counted.iter();
                let within = within.filter(|other| **other > at_ms - per_ms && *other <= at_ms);
                let n = within.count() as u64;
                prop_assert!(n <= requests, "{n} in {per_ms} ms before {at_ms}");
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_is_settled_or_noted_is_not_sent_again_and_no_rate_is_broken(
        kinds in prop::collection::vec(1..4u64, 1..60),
        steps in prop::collection::vec((0..28u8, 0.0..1.0f64, 0..1_500i64), 1..200),
    ) {
        let mut world = World::new(kinds);
        for (step, chance, ms) in steps {
            world.send();
            match step {
                0..10 => world.answer(Verdict::Delivered, chance),
                10 => world.answer(Verdict::Retry { after: None }, chance),
                11 => world.answer(Verdict::Pause { reason: "forbidden" }, chance),
                12 => world.kill(chance < 0.5, chance < 0.25, ms)?,
                13 => world.stop(ms)?,
                14..20 => world.now_ms += ms,
                _ => { world.commit(false, true)?; }
            }
        }
        for _ in 0..10_000 {
            if world.feed.pos == world.kinds.len() as Seq {
                break;
            }
            world.send();
            while !world.under_way.is_empty() {
                world.answer(Verdict::Delivered, 0.5);
            }
            world.commit(false, true)?;
            let wakes = world.flow.wakes_ms(world.now_ms).unwrap_or(0);
            world.now_ms = wakes.max(world.now_ms + 1);
        }
        let all = world.kinds.len() as u64;
        prop_assert_eq!((world.feed.pos, world.delivered), (all, all), "every event has its outcome, once");
        prop_assert!(world.feed.parts.is_empty() && world.flow.unsettled() == 0);
        for (seq, kind) in (0..).zip(&world.kinds) {
            for request in (0..2).filter(|request| kind & bit(*request) != 0) {
                let arrived = world.arrived.get(&(request, seq)).copied().unwrap_or(0);
                let unknown = world.allowed.get(&(request, seq)).copied().unwrap_or(0);
                prop_assert!((1..=1 + unknown).contains(&arrived), "{arrived} of {seq} by {request}, {unknown} unknown");
            }
        }
        world.rates_kept()?;
    }
}
