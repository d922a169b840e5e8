//! One integration's pipeline: reads the journal, maps, sends, settles. Decisions are made in [`super::flow`]; here
//! is only the I/O around them.
//!
//! [`Worker::step`] starts whatever may be started and takes in one thing that ended; [`Worker::run`] does so until
//! it is told to stop. Everything under way is a value in one set of futures, so a step never waits for two things.
//! A crash at any point only means that events not yet settled are read, mapped and sent again, byte for byte; but not
//! those parts of them that are known to have ended.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::flow::{Arrivals, Bucket, Directory, Flow, FlowOptions, Job, paused_reasons};
use super::status::Status;
use super::{Sender, expiry, mapping, rest, wire};
use crate::blueprint::Tables;
use crate::clock::{Millis, SharedClock};
use crate::crew::Crew;
use crate::journal::{Chunk, Feed, Journal, JournalError, Mark, Outcome, Parked, Seq};
use crate::logbook::{Logbook, Skipped};
use crate::metrics;
use crate::registry::Integration;
use crate::vendor::http::{Answer, SendError};
use crate::vendor::refresh::Refresh;

mod fields;
mod report;

use report::count;

/// Events of one pipeline in memory at once, and their bytes.
pub(super) const WINDOW_EVENTS: usize = 8_192;
pub(super) const WINDOW_BYTES: usize = 16 << 20;

/// Read from the journal at a time.
pub(super) const READ_BYTES: usize = 512 << 10;

/// At the tail the journal is read at most this often, so that events come by the hundred and not by the commit. The
/// first event after a lull is read at once.
const TAIL_EVERY_MS: Millis = 10;

/// So much behind is not the tail.
const TAIL_EVENTS: Seq = 1_024;

/// Chunks being mapped at once. Two keep a second core busy. Where the blueprint keeps an order they are taken in as
/// they were read; where it does not, as they come.
const MAPPING_MAX: usize = 2;

/// Parked records are looked for this often.
const PARKED_EVERY_MS: Millis = 1_000;

/// The limits of the backlog are checked this often.
const LIMITS_EVERY_MS: Millis = 10_000;

/// Events are set apart to make room at most this often.
const RELIEVE_EVERY_MS: Millis = 250;

/// The rates of an integration's requests, handed from one worker to the next.
pub(super) type Rates = Arc<Mutex<Vec<(String, Bucket)>>>;

/// Threads that map, for all pipelines: as many as there are processors.
fn mappers() -> &'static Crew {
    static MAPPERS: OnceLock<Crew> = OnceLock::new();
    MAPPERS.get_or_init(|| {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Crew::start("mapping", processors)
    })
}

/// What a worker is made of.
pub(super) struct Parts {
    pub integration: Arc<Integration>,
    pub journal: Journal,
    pub sender: Arc<dyn Sender>,
    pub logbook: Logbook,
    pub clock: SharedClock,
    pub chance: StdRng,
    pub refresh: Option<Refresh>,
    pub status: Arc<Mutex<Status>>,
    pub rates: Rates,
    /// Rates of several integrations.
    pub buckets: Directory,
}

/// An order from outside.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    /// Try now, whatever the vendor said.
    Resume,
}

/// Something under way that ended.
enum Done {
    Read(Result<Chunk, JournalError>),
    Parked(Result<Vec<Parked>, JournalError>),
    Mapped {
        ticket: u64,
        arrivals: Option<Arrivals>,
    },
    Marks(Result<Vec<Mark>, JournalError>),
    Sent {
        job: Box<Job>,
        at_ms: Millis,
        result: Result<Answer, SendError>,
    },
    Settled {
        result: Result<(), JournalError>,
        unparked: Vec<Seq>,
        marks: Vec<Mark>,
        /// The rates were written down with it.
        noted: bool,
    },
    Fields {
        looked: Box<fields::Looked>,
        result: Result<Answer, SendError>,
    },
    Limits(Result<expiry::Backlog, JournalError>),
    Woken(Result<(), JournalError>),
}

/// A place in the order of the log, for events being mapped.
struct Ticket {
    number: u64,
    arrivals: Option<Arrivals>,
}

/// What a step did.
#[cfg(test)]
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Something moved; step again.
    Moved,
    /// Nothing is under way; come back at that time, or when something new comes.
    Idle(Option<Millis>),
}

/// One integration's pipeline.
pub(super) struct Worker {
    parts: Parts,
    flow: Flow,
    tables: watch::Receiver<Arc<Tables>>,
    /// Kept so that `tables` never closes when there are none to refresh.
    _no_tables: Option<watch::Sender<Arc<Tables>>>,
    end: watch::Receiver<Seq>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    read_pos: Seq,
    settled_above: Vec<Range<Seq>>,
    reading: bool,
    read_at_ms: Millis,
    staged: Option<Vec<crate::journal::Entry>>,
    /// Chunks between the journal and the flow.
    mapping: usize,
    /// They must be taken in as they were read.
    ordered: bool,
    tickets: u64,
    intake: VecDeque<Ticket>,
    /// The journal is being asked for the marks of the first of them.
    asking: bool,
    /// Of the tables, see [`Flow::tables_changed`].
    generation: u64,
    relieve_at_ms: Millis,
    fields: fields::Watch,
    parked_reading: bool,
    /// Parked records in memory.
    parked_known: HashSet<Seq>,
    /// … and those settled since the last reading began.
    parked_settled: Vec<Seq>,
    parked_at_ms: Millis,
    settling: bool,
    checking_limits: bool,
    limits_at_ms: Millis,
    stopping: bool,
    failed: Option<JournalError>,
    shown_pause: Option<&'static str>,
}

impl Worker {
    /// A worker that goes on where the feed stands.
    pub(super) fn new(parts: Parts, feed: &Feed) -> Self {
        let (sender, tables) = match &parts.refresh {
            Some(refresh) => (None, refresh.tables()),
            None => {
                let (sender, receiver) = watch::channel(Arc::new(Tables::default()));
                (Some(sender), receiver)
            }
        };
        let integration = &parts.integration;
        let plan = &integration.plan;
        let mut flow = Flow::new(FlowOptions::of(&integration.id, plan, &integration.tuning));
        let rates = std::mem::take(&mut *parts.rates.lock());
        flow.recall(&feed.note, rates, parts.clock.now_ms());
        flow.ended_earlier(feed.parts.clone());
        flow.share(&parts.buckets);
        flow.labels_count_from(parts.journal.labels_from());
        let ordered = FlowOptions::ordered(plan);
        let mut worker = Self {
            flow,
            tables,
            _no_tables: sender,
            end: parts.journal.end(),
            work: FuturesUnordered::new(),
            read_pos: feed.pos,
            settled_above: feed.settled_above.clone(),
            reading: false,
            read_at_ms: 0,
            staged: None,
            mapping: 0,
            ordered,
            tickets: 0,
            intake: VecDeque::new(),
            asking: false,
            generation: 0,
            relieve_at_ms: 0,
            fields: fields::Watch::default(),
            parked_reading: false,
            parked_known: HashSet::new(),
            parked_settled: Vec::new(),
            parked_at_ms: 0,
            settling: false,
            checking_limits: false,
            limits_at_ms: 0,
            stopping: false,
            failed: None,
            shown_pause: None,
            parts,
        };
        if feed.parked > 0 {
            // Whatever was paused when they were set apart: nothing is known to be now. And what they lacked may have
            // come between the worker before and this one.
            let plan = &worker.parts.integration.plan;
            let reasons = [paused_reasons(plan.requests()), plan.hold_reasons()].concat();
            worker.wake(reasons);
        }
        worker
    }

    /// Works until told to stop; then lets what is under way at the vendor end, and settles it.
    ///
    /// # Errors
    /// When the journal fails; nothing is lost, a new worker takes up where this one stood.
    pub(super) async fn run(
        mut self,
        stop: &CancellationToken,
        orders: &mut mpsc::UnboundedReceiver<Order>,
    ) -> Result<(), JournalError> {
        let mut orders_open = true;
        loop {
            self.start_work();
            self.show();
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if self.stopping && self.flow.in_flight() == 0 && !self.settling {
                return Ok(());
            }
            let now_ms = self.parts.clock.now_ms();
            let wait_ms = self
                .wakes_ms()
                .saturating_sub(now_ms)
                .clamp(1, LIMITS_EVERY_MS);
            let wait = Duration::from_millis(u64::try_from(wait_ms).unwrap_or(1));
            let wait = self.parts.clock.timer(wait);
            let at_tail = self.read_pos >= *self.end.borrow();
            tokio::select! {
                Some(done) = self.work.next() => self.take(done),
                changed = self.end.changed(), if at_tail => {
                    if changed.is_err() {
                        return Err(JournalError::Closed);
                    }
                }
                Ok(()) = self.tables.changed() => self.tables_changed(),
                order = orders.recv(), if orders_open => match order {
                    Some(order) => self.obey(order),
                    None => orders_open = false,
                },
                () = stop.cancelled(), if !self.stopping => self.stopping = true,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Starts what may be started now, then takes in one thing that ended.
    #[cfg(test)]
    pub(super) async fn step(&mut self) -> Result<Step, JournalError> {
        if self.tables.has_changed().unwrap_or(false) {
            self.tables.mark_unchanged();
            self.tables_changed();
        }
        self.start_work();
        self.show();
        match self.work.next().await {
            Some(done) => self.take(done),
            None => return Ok(Step::Idle(Some(self.wakes_ms()))),
        }
        match self.failed.take() {
            Some(error) => Err(error),
            None => Ok(Step::Moved),
        }
    }

    /// An order from outside.
    pub(super) fn obey(&mut self, order: Order) {
        match order {
            Order::Resume => {
                self.fields = fields::Watch::default();
                self.flow.resume(self.parts.clock.now_ms());
            }
        }
    }

    fn wakes_ms(&mut self) -> Millis {
        let now_ms = self.parts.clock.now_ms();
        let by_flow = if self.halted() {
            None
        } else {
            self.flow.wakes_ms(now_ms)
        };
        let reads = !self.halted()
            && !self.reading
            && self.staged.is_none()
            && self.flow.wants_fresh()
            && self.read_pos < *self.end.borrow();
        [
            by_flow,
            reads.then_some(self.read_at_ms + TAIL_EVERY_MS),
            self.may_read_parked().then_some(self.parked_at_ms),
            self.needs_relief().then_some(self.relieve_at_ms),
            self.flow.settle_due_ms().filter(|_| !self.settling),
            Some(self.limits_at_ms),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(Millis::MAX)
    }

    /// Neither reads nor sends: an admin stopped it, or there is nothing to map with yet.
    fn halted(&self) -> bool {
        self.stopping || self.parts.integration.paused.is_some() || self.lacks_tables()
    }

    /// Without a datafile every key is unknown: better to leave events in the log than to set each apart.
    fn lacks_tables(&self) -> bool {
        let tables = self.tables.borrow();
        self.parts
            .integration
            .plan
            .tables()
            .iter()
            .any(|source| !tables.tables.contains_key(&source.name))
    }

    fn start_work(&mut self) {
        let now_ms = self.parts.clock.now_ms();
        if !self.stopping && !self.checking_limits && now_ms >= self.limits_at_ms {
            self.start_limits(now_ms);
        }
        if !self.halted() {
            self.start_reading(now_ms);
            self.start_parked(now_ms);
            self.start_mapping();
            if self.needs_relief() && now_ms >= self.relieve_at_ms {
                self.relieve_at_ms = now_ms + RELIEVE_EVERY_MS;
                self.flow.relieve(now_ms);
            }
            while let Some(job) = self.flow.next_job(now_ms) {
                self.start_sending(job, now_ms);
            }
        }
        let woken = self.flow.take_woken();
        if !self.settling {
            // Those set apart a moment ago are due already; the others are in the journal.
            self.start_settling();
        }
        self.wake(woken);
        if self.flow.take_missing_rows()
            && let Some(refresh) = &self.parts.refresh
        {
            refresh.wanted();
        }
    }

    /// Is the window full while more waits in the log, and can setting events apart help?
    fn needs_relief(&self) -> bool {
        !self.halted()
            && self.parts.integration.plan.requests().len() > 1
            && !self.flow.wants_fresh()
            && (self.staged.is_some() || self.read_pos < *self.end.borrow())
    }

    fn start_reading(&mut self, now_ms: Millis) {
        if self.reading || self.staged.is_some() || !self.flow.wants_fresh() {
            return;
        }
        let behind = self.end.borrow_and_update().saturating_sub(self.read_pos);
        if behind == 0 || (behind < TAIL_EVENTS && now_ms < self.read_at_ms + TAIL_EVERY_MS) {
            return;
        }
        self.read_at_ms = now_ms;
        self.reading = true;
        let (journal, from) = (self.parts.journal.clone(), self.read_pos);
        self.work.push(Box::pin(async move {
            Done::Read(journal.read(from, READ_BYTES).await)
        }));
    }

    fn may_read_parked(&self) -> bool {
        !self.halted()
            && !self.parked_reading
            && self.mapping < MAPPING_MAX
            && self.flow.wants_parked() > 0
    }

    fn start_parked(&mut self, now_ms: Millis) {
        let room = self.flow.wants_parked();
        if self.parked_reading
            || self.mapping >= MAPPING_MAX
            || room == 0
            || now_ms < self.parked_at_ms
        {
            return;
        }
        self.parked_reading = true;
        self.parked_at_ms = now_ms + PARKED_EVERY_MS;
        // Those in memory already are still parked in the journal: read past them.
        let limit = self.parked_known.len() + room.min(512);
        let (journal, feed) = (self.parts.journal.clone(), self.feed());
        self.work.push(Box::pin(async move {
            Done::Parked(journal.parked(&feed, now_ms, limit).await)
        }));
    }

    fn start_mapping(&mut self) {
        if self.mapping >= MAPPING_MAX {
            return;
        }
        let Some(entries) = self.staged.take() else {
            return;
        };
        let (integration, tables) = (self.parts.integration.clone(), self.current_tables());
        let generation = self.generation;
        let oldest_ms = entries.first().map(|entry| entry.at_ms);
        let age_ms = oldest_ms.map_or(0, |at_ms| self.parts.clock.now_ms() - at_ms);
        let map = move || mapping::map_fresh(&integration, &tables, generation, entries);
        self.spawn_mapping(age_ms, map);
    }

    /// `age_ms`: of the oldest of the events; of those set apart, which have waited by intention, 0.
    fn spawn_mapping(&mut self, age_ms: Millis, map: impl FnOnce() -> Arrivals + Send + 'static) {
        self.mapping += 1;
        self.tickets += 1;
        let ticket = self.tickets;
        self.intake.push_back(Ticket {
            number: ticket,
            arrivals: None,
        });
        // JSON for hundreds of events takes milliseconds: off the threads that serve sockets.
        let journal = self.parts.journal.clone();
        self.work.push(Box::pin(async move {
            let rest = move |waited: Duration| match journal.is_pressed() {
                true => rest::after(waited, age_ms),
                false => Duration::ZERO,
            };
            let arrivals = mappers().run_and_rest(map, rest).await.ok();
            Done::Mapped { ticket, arrivals }
        }));
    }

    /// Takes mapped events in, in the order they were read where that matters; the journal is asked first for what
    /// it knows of their keys.
    fn take_in(&mut self, now_ms: Millis) {
        while !self.asking
            && let Some(index) = self.next_ticket()
        {
            let Some(arrivals) = self
                .intake
                .get(index)
                .and_then(|ticket| ticket.arrivals.as_ref())
            else {
                return;
            };
            if self.ordered {
                self.flow.forget_marks(now_ms);
                let keys = self.flow.unknown_marks(arrivals);
                if !keys.is_empty() {
                    self.ask(keys);
                    return;
                }
            }
            self.absorb(index, now_ms);
        }
    }

    fn next_ticket(&self) -> Option<usize> {
        if self.ordered {
            self.intake.front()?.arrivals.as_ref()?;
            return Some(0);
        }
        self.intake
            .iter()
            .position(|ticket| ticket.arrivals.is_some())
    }

    fn ask(&mut self, keys: Vec<u128>) {
        self.asking = true;
        let (journal, feed) = (self.parts.journal.clone(), self.feed());
        self.work.push(Box::pin(async move {
            Done::Marks(journal.marks(&feed, &keys).await)
        }));
    }

    fn absorb(&mut self, index: usize, now_ms: Millis) {
        if let Some(arrivals) = self.intake.remove(index).and_then(|ticket| ticket.arrivals) {
            self.mapping -= 1;
            self.flow.absorb(arrivals, now_ms);
        }
    }

    fn start_sending(&mut self, mut job: Job, now_ms: Millis) {
        if job.wire.is_none()
            && let Err(why) = wire::make(&self.parts.integration.plan, &mut job)
        {
            return self.flow.unmakeable(job, &why, now_ms);
        }
        let Some(request) = job.wire.clone() else {
            return;
        };
        self.watch_fields(job.batch.request, &request, now_ms);
        let timeout = Duration::from_millis(self.parts.integration.tuning.timeout_ms);
        let sending = self.parts.sender.send(request, timeout);
        let job = Box::new(job);
        self.work.push(Box::pin(async move {
            Done::Sent {
                job,
                at_ms: now_ms,
                result: sending.await,
            }
        }));
    }

    fn start_settling(&mut self) {
        let now_ms = self.parts.clock.now_ms();
        let Some(settled) = self.flow.take_settle(now_ms, self.stopping) else {
            return;
        };
        self.settling = true;
        let settle = settled.settle;
        let (journal, clock, feed) = (
            self.parts.journal.clone(),
            self.parts.clock.clone(),
            self.feed(),
        );
        let logbook = self.parts.logbook.clone();
        self.work.push(Box::pin(async move {
            let unparked = settle.unpark.clone();
            let marks = settle.marks.clone();
            let noted = settle.note.is_some();
            let result = journal.settle(settle).await;
            if result.is_ok() {
                count(&feed, &settled.delivered_at, clock.now_ms());
                for (reason, seqs) in settled.skipped {
                    logbook.skipped(Skipped {
                        integration: feed.clone(),
                        at_ms: clock.now_ms(),
                        reason,
                        seqs,
                    });
                }
            }
            Done::Settled {
                result,
                unparked,
                marks,
                noted,
            }
        }));
    }

    fn start_limits(&mut self, now_ms: Millis) {
        self.checking_limits = true;
        self.limits_at_ms = now_ms + LIMITS_EVERY_MS;
        let age_ms = i64::try_from(self.parts.integration.tuning.backlog_age_s)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000);
        let before_ms = now_ms.saturating_sub(age_ms);
        let (journal, feed) = (self.parts.journal.clone(), self.feed());
        self.work.push(Box::pin(async move {
            Done::Limits(expiry::Backlog::of(&journal, &feed, before_ms).await)
        }));
    }

    fn tables_changed(&mut self) {
        let now_ms = self.parts.clock.now_ms();
        self.parked_at_ms = now_ms;
        self.generation = self.flow.tables_changed(now_ms);
        self.wake(self.parts.integration.plan.hold_reasons());
    }

    /// Has the journal's parked records with these reasons be due now.
    fn wake(&mut self, reasons: Vec<String>) {
        if reasons.is_empty() {
            return;
        }
        let (journal, feed) = (self.parts.journal.clone(), self.feed());
        self.work.push(Box::pin(async move {
            for reason in reasons {
                if let Err(error) = journal.wake(&feed, &reason).await {
                    return Done::Woken(Err(error));
                }
            }
            Done::Woken(Ok(()))
        }));
    }

    /// Takes in one thing that ended.
    fn take(&mut self, done: Done) {
        let now_ms = self.parts.clock.now_ms();
        match done {
            Done::Read(Ok(chunk)) => {
                self.reading = false;
                self.take_chunk(chunk);
            }
            Done::Parked(Ok(parked)) => {
                self.parked_reading = false;
                self.take_parked(parked);
                self.forget_settled();
            }
            Done::Mapped {
                ticket,
                arrivals: Some(arrivals),
            } => {
                let mut intake = self.intake.iter_mut();
                if let Some(place) = intake.find(|place| place.number == ticket) {
                    place.arrivals = Some(arrivals);
                }
                self.take_in(now_ms);
            }
            Done::Marks(Ok(marks)) => {
                self.asking = false;
                self.flow.learn(&marks);
                self.absorb(0, now_ms);
                self.take_in(now_ms);
            }
            Done::Mapped { arrivals: None, .. } => {
                // Only when the runtime shuts down: the events are still in the journal.
                self.failed = Some(JournalError::Closed);
            }
            Done::Sent { job, at_ms, result } => self.take_answer(*job, at_ms, result, now_ms),
            Done::Settled {
                result: Ok(()),
                unparked,
                marks,
                noted,
            } => {
                self.settling = false;
                if noted {
                    self.flow.note_stored();
                }
                self.flow.marks_stored(&marks);
                self.parked_settled.extend(unparked);
                self.forget_settled();
            }
            Done::Fields { looked, result } => self.take_fields(*looked, result, now_ms),
            Done::Limits(Ok(backlog)) => {
                self.checking_limits = false;
                self.expire(&backlog);
            }
            Done::Woken(Ok(())) => self.parked_at_ms = now_ms,
            Done::Read(Err(error))
            | Done::Parked(Err(error))
            | Done::Marks(Err(error))
            | Done::Limits(Err(error))
            | Done::Woken(Err(error))
            | Done::Settled {
                result: Err(error), ..
            } => self.failed = Some(error),
        }
    }

    fn take_chunk(&mut self, chunk: Chunk) {
        let from = self.read_pos;
        self.read_pos = chunk.next;
        for span in chunk.damaged {
            let lost = expiry::unsettled(&self.settled_above, span.start.max(from)..span.end);
            for part in lost {
                tracing::error!(
                    integration = self.parts.integration.id,
                    first = part.start,
                    last = part.end - 1,
                    "events unreadable: their journal block is damaged"
                );
                self.flow.write_off(part, Outcome::Dead, "damaged");
            }
        }
        let mut entries = chunk.entries;
        if !self.settled_above.is_empty() {
            entries.retain(|entry| {
                !self
                    .settled_above
                    .iter()
                    .any(|run| run.contains(&entry.seq))
            });
            let read_pos = self.read_pos;
            self.settled_above.retain(|run| run.end > read_pos);
        }
        if !entries.is_empty() {
            self.staged = Some(entries);
        }
    }

    /// Parked records settled may be parked (and read) again. But not while a reading is under way that may have
    /// begun before they were settled: it would bring them back to life.
    fn forget_settled(&mut self) {
        if !self.parked_reading {
            for seq in self.parked_settled.drain(..) {
                self.parked_known.remove(&seq);
            }
        }
    }

    fn take_parked(&mut self, mut parked: Vec<Parked>) {
        parked.retain(|parked| self.parked_known.insert(parked.seq));
        if parked.is_empty() {
            return;
        }
        // There may be more.
        self.parked_at_ms = self.parts.clock.now_ms();
        let (integration, tables) = (self.parts.integration.clone(), self.current_tables());
        let generation = self.generation;
        let map = move || mapping::map_parked(&integration, &tables, generation, parked);
        self.spawn_mapping(0, map);
    }

    /// Gives up what is older or more than the limits allow; said loudly, and tallied.
    fn expire(&mut self, backlog: &expiry::Backlog) {
        if self.reading {
            // The chunk on its way begins where we would: next time.
            self.limits_at_ms = self.parts.clock.now_ms() + 100;
            return;
        }
        let end = *self.end.borrow();
        let upto = backlog.expires(
            self.read_pos,
            end,
            self.parts.integration.tuning.backlog_bytes,
        );
        if upto <= self.read_pos {
            return;
        }
        let mut lost = 0;
        for part in expiry::unsettled(&self.settled_above, self.read_pos..upto) {
            lost += part.end - part.start;
            self.flow.write_off(part, Outcome::Skipped, "expired");
        }
        tracing::error!(
            integration = self.parts.integration.id,
            events = lost,
            upto,
            "backlog over its limit: the oldest events are given up as skipped (expired)"
        );
        self.read_pos = upto;
    }

    fn current_tables(&self) -> Arc<Tables> {
        self.tables.borrow().clone()
    }

    fn feed(&self) -> String {
        self.parts.integration.id.clone()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        *self.parts.rates.lock() = self.flow.rates();
        if let Some(reason) = self.shown_pause {
            metrics::integration_paused(&self.parts.integration.id, reason).set(0.0);
        }
    }
}
