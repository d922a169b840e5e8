//! What goes out next, and when there may be more. Pure.

use super::slots::{Ended, Fate, dead};
use super::{Batch, Flow, Job, Line, Origin};
use crate::clock::Millis;

/// Where the next job of a line stands.
#[derive(Debug, Clone, Copy)]
enum Next {
    Retry((Millis, u64)),
    Ready(usize),
}

impl Flow {
    /// The next job to send, if one may go now. It comes back by [`Flow::heard`] or [`Flow::unmakeable`].
    pub(in super::super) fn next_job(&mut self, now_ms: Millis) -> Option<Job> {
        loop {
            self.pump(now_ms);
            if let Some(job) = self.next_of_any(now_ms) {
                return Some(job);
            }
            // What was found outdated on the way may have opened a lane.
            if self.lanes.next_due_ms().is_none_or(|at_ms| at_ms > now_ms) {
                return None;
            }
        }
    }

    fn next_of_any(&mut self, now_ms: Millis) -> Option<Job> {
        let lines = self.lines.len();
        for step in 0..lines {
            let request = (self.turn + step) % lines;
            if let Some(job) = self.next_of(request, now_ms) {
                self.turn = (request + 1) % lines;
                return Some(job);
            }
        }
        (0..lines).find_map(|request| self.next_spilled(request, now_ms))
    }

    /// Moves on what only waited for time: lanes that opened, batches old enough, requests that are open again.
    fn pump(&mut self, now_ms: Millis) {
        let mut cut = Vec::new();
        while let Some(key) = self.lanes.due(now_ms) {
            let batcher = &self.batcher;
            let mut next = self.lanes.next(key, now_ms, |waiting| {
                let json = waiting.item.json.len();
                batcher.would_join(waiting.request, waiting.group, json, &waiting.envelope)
            });
            while let Some(waiting) = next {
                let id = self.batcher.add(
                    waiting.request,
                    waiting.group,
                    waiting.item,
                    &waiting.envelope,
                    now_ms,
                    &mut cut,
                );
                self.lanes.hold(key, id);
                let batcher = &self.batcher;
                next = self.lanes.next(key, now_ms, |waiting| {
                    let json = waiting.item.json.len();
                    batcher.would_join(waiting.request, waiting.group, json, &waiting.envelope)
                });
            }
        }
        self.batcher.cut_due(now_ms, &mut cut);
        if cut.is_empty()
            && !self.wants_fresh()
            && self.lines.iter().all(|line| line.ready.is_empty())
        {
            // No company can come: the window is full.
            self.batcher.cut_all(&mut cut);
        }
        self.enqueue(cut);
        self.reopen(now_ms);
    }

    fn next_of(&mut self, request: usize, now_ms: Millis) -> Option<Job> {
        loop {
            let next = self.sendable(request, now_ms)?;
            let line = self.lines.get_mut(request)?;
            let mut job = match next {
                Next::Retry(key) => line.retries.remove(&key)?,
                Next::Ready(index) => line.ready.remove(index)?,
            };
            self.drop_outdated(&mut job, now_ms);
            if job.batch.items.is_empty()
                && let Some(search) = job.search.take()
            {
                job.batch.items = search.0.into_kept();
                self.drop_outdated(&mut job, now_ms);
            }
            if !job.batch.items.is_empty() {
                return self.send_out(job, now_ms);
            }
        }
    }

    /// The job of a line that may go now: a retry that is due, as it holds the oldest events, else the first one
    /// that keeps the order of its lanes. Events still in open batches are not waited for.
    fn sendable(&mut self, request: usize, now_ms: Millis) -> Option<Next> {
        if !self.open(request, now_ms) {
            return None;
        }
        let (next, items) = self.candidate(request, now_ms)?;
        let line = self.lines.get_mut(request)?;
        line.admits(now_ms, items).then_some(next)
    }

    fn open(&self, request: usize, now_ms: Millis) -> bool {
        let Some((rules, line)) = self
            .options
            .requests
            .get(request)
            .zip(self.lines.get(request))
        else {
            return false;
        };
        !rules.spill_always
            && line.in_flight < rules.in_flight_max
            && self
                .doors
                .get(rules.gate)
                .is_some_and(|door| door.gate.admits(now_ms, door.in_flight))
    }

    fn candidate(&self, request: usize, now_ms: Millis) -> Option<(Next, u64)> {
        let line = self.lines.get(request)?;
        let may_go = |job: &Job| self.lanes_open_ms(job).is_some_and(|at| at <= now_ms);
        let mut due = line.retries.iter().take_while(|(key, _)| key.0 <= now_ms);
        if let Some((key, job)) = due.find(|(_, job)| may_go(job)) {
            return Some((Next::Retry(*key), job.items()));
        }
        line.ready
            .iter()
            .enumerate()
            .find(|(_, job)| may_go(job))
            .map(|(index, job)| (Next::Ready(index), job.items()))
    }

    /// From when on the lanes of a job let it go; none when another job has to go first.
    fn lanes_open_ms(&self, job: &Job) -> Option<Millis> {
        if job.split {
            self.lanes_open_of(job)
        } else {
            Some(Millis::MIN)
        }
    }

    fn lanes_open_of(&self, job: &Job) -> Option<Millis> {
        let mut opens_ms = Millis::MIN;
        for item in &job.batch.items {
            if let Some(key) = self.lane_of(job.batch.request, item) {
                opens_ms = opens_ms.max(self.lanes.opens(key, job.batch.id)?);
            }
        }
        Some(opens_ms)
    }

    /// None when the rate is shared and somebody else was faster: then the job goes as soon as there is room again.
    fn send_out(&mut self, mut job: Job, now_ms: Millis) -> Option<Job> {
        let request = job.batch.request;
        let items = job.items();
        if let Some(line) = self.lines.get_mut(request) {
            if !line.sent(now_ms, items) {
                line.retries.insert((now_ms, job.batch.id), job);
                return None;
            }
            line.in_flight += 1;
        }
        let gate = self.options.requests.get(request).map(|rules| rules.gate);
        let mut decides = false;
        if let Some(door) = gate.and_then(|gate| self.doors.get_mut(gate)) {
            decides = door.gate.sent();
            door.in_flight += 1;
        }
        if decides {
            job.trigger = "probe";
        } else if job.trigger == "probe" {
            job.trigger = self.trigger(&job.batch);
        }
        self.in_flight += 1;
        Some(job)
    }

    /// Takes out of a job what has become too old, or older than what came since.
    fn drop_outdated(&mut self, job: &mut Job, now_ms: Millis) {
        let looks = |part: usize| {
            self.options.requests.get(part).is_some_and(|rules| {
                rules.newest || rules.stale_after_ms.is_some() || rules.dead_after_ms.is_some()
            })
        };
        if self.silences.is_empty()
            && !looks(job.batch.request)
            && !job.batch.items.iter().any(|item| looks(item.part))
        {
            return;
        }
        let mut ended = Vec::new();
        for (at, item) in job.batch.items.iter_mut().enumerate() {
            if self.lose_field(item) {
                job.wire = None;
            }
            ended.extend(self.outdated(item, now_ms).map(|fate| (at, fate)));
        }
        if ended.is_empty() {
            return;
        }
        let mut ended = ended.into_iter().peekable();
        let mut kept = Vec::with_capacity(job.batch.items.len());
        let mut gone = Vec::new();
        for (at, item) in std::mem::take(&mut job.batch.items).into_iter().enumerate() {
            match ended.next_if(|(which, _)| *which == at) {
                Some((_, fate)) => gone.push((item, fate)),
                None => kept.push(item),
            }
        }
        job.batch.items = kept;
        job.wire = None;
        let lanes: Vec<_> = gone.iter().map(|(item, _)| item.lane).collect();
        self.leave_lanes(job, &lanes);
        for (item, fate) in gone {
            self.end_item(item, Ended::As(fate), now_ms);
        }
    }

    /// An item that is not the newest any more goes on without the field that is about the newest.
    fn lose_field(&mut self, item: &mut super::Item) -> bool {
        let rules = self.options.requests.get(item.part);
        let Some(field) = rules.and_then(|rules| rules.newest_without.clone()) else {
            return false;
        };
        let Some(held) = item.held.as_deref_mut() else {
            return false;
        };
        if !self.marks.superseded(held) {
            return false;
        }
        self.marks.without_newest(held);
        super::strip(&mut item.json, &field);
        true
    }

    fn outdated(&self, item: &super::Item, now_ms: Millis) -> Option<Fate> {
        let skipped = |reason: &str| Some(Fate::Skipped(reason.to_owned()));
        if let Some(reason) = self.silences.reason(item.lane, now_ms) {
            return skipped(reason);
        }
        if item
            .held
            .as_deref()
            .is_some_and(|held| self.marks.superseded(held))
        {
            return skipped("superseded");
        }
        let rules = self.options.requests.get(item.part)?;
        let slot = self.slots.get(item.slot)?;
        let age_ms = now_ms.saturating_sub(slot.ts_ms);
        if rules
            .stale_after_ms
            .is_some_and(|after_ms| age_ms > after_ms)
        {
            return skipped("stale");
        }
        let replayed = matches!(
            slot.origin,
            Origin::Parked {
                replay: Some(_),
                ..
            }
        );
        let late = rules
            .dead_after_ms
            .is_some_and(|after_ms| age_ms > after_ms);
        (late && !replayed).then(|| {
            let hours = age_ms / 3_600_000;
            let detail = format!("it was {hours} h old when it could be sent; a replay sends it");
            dead("too_late", detail)
        })
    }

    /// A job has no items any more of these lanes, unless it still has others of them.
    pub(super) fn leave_lanes(&mut self, job: &Job, gone: &[Option<u64>]) {
        let Some(space) = self
            .options
            .requests
            .get(job.batch.request)
            .map(|rules| rules.lanes)
        else {
            return;
        };
        if gone.iter().all(Option::is_none) {
            return;
        }
        let kept: hashbrown::HashSet<u64> = job.all_items().filter_map(|item| item.lane).collect();
        for lane in gone.iter().flatten().filter(|lane| !kept.contains(*lane)) {
            self.lanes.release((space, *lane), job.batch.id);
        }
    }

    /// While a request may not be sent for its rate, its oldest waiting item goes by another one.
    fn next_spilled(&mut self, request: usize, now_ms: Millis) -> Option<Job> {
        loop {
            let carrier = self.spills(request, now_ms)?;
            if !self.open(carrier, now_ms) || !self.lines.get_mut(carrier)?.admits(now_ms, 1) {
                return None;
            }
            let mut job = self.take_oldest(request, carrier)?;
            self.drop_outdated(&mut job, now_ms);
            if !job.batch.items.is_empty() {
                return self.send_out(job, now_ms);
            }
        }
    }

    /// The request that carries the items of this one now, if it has any that wait for its rate alone.
    fn spills(&mut self, request: usize, now_ms: Millis) -> Option<usize> {
        let rules = self.options.requests.get(request)?;
        let (carrier, always) = (rules.spill?, rules.spill_always);
        let line = self.lines.get_mut(request)?;
        let first = line.ready.front()?;
        if first.search.is_some() || first.split {
            return None;
        }
        let items = first.items();
        (always || !line.has_room(now_ms, items)).then_some(carrier)
    }

    /// Takes the first item out of the first job; it becomes a job of the carrier.
    fn take_oldest(&mut self, request: usize, carrier: usize) -> Option<Job> {
        let id = self.batcher.new_id();
        let line = self.lines.get_mut(request)?;
        let mut job = line.ready.pop_front()?;
        if job.batch.items.is_empty() {
            return None;
        }
        let item = job.batch.items.remove(0);
        job.wire = None;
        if let Some(key) = self.lane_of(request, &item) {
            self.lanes.hold_before(key, id, job.batch.id);
        }
        let (lane, batch) = (item.lane, Batch::of(id, carrier, vec![item], &job.batch));
        self.leave_lanes(&job, &[lane]);
        if !job.batch.items.is_empty() {
            job.split |= self.shares_lanes(&job);
            if let Some(line) = self.lines.get_mut(request) {
                line.ready.push_front(job);
            }
        }
        let trigger = self.trigger(&batch);
        Some(Job::new(batch, trigger))
    }

    /// Must another job go before this one, for a lane they share?
    fn shares_lanes(&self, job: &Job) -> bool {
        self.lanes_open_of(job).is_none()
    }

    /// When there may be something to send again, nothing else happening.
    pub(in super::super) fn wakes_ms(&mut self, now_ms: Millis) -> Option<Millis> {
        let by_line = (0..self.lines.len())
            .filter_map(|request| self.line_wakes_ms(request, now_ms))
            .min();
        [
            self.batcher.next_due_ms(),
            self.lanes.next_due_ms(),
            by_line,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn line_wakes_ms(&mut self, request: usize, now_ms: Millis) -> Option<Millis> {
        let own = self.jobs_wake_ms(request, now_ms);
        let spilled = self.spills(request, now_ms).and_then(|carrier| {
            let opens_ms = self.opens_ms(carrier, now_ms)?;
            let line = self.lines.get_mut(carrier)?;
            Some(opens_ms.max(line.rate_opens_ms(now_ms, 1)?))
        });
        [own, spilled].into_iter().flatten().min()
    }

    fn jobs_wake_ms(&mut self, request: usize, now_ms: Millis) -> Option<Millis> {
        let opens_ms = self.opens_ms(request, now_ms)?;
        let line = self.lines.get(request)?;
        let retry = self.first_retry(line, now_ms);
        let due = retry.is_some_and(|(at_ms, _)| at_ms <= now_ms);
        let ready = if due { None } else { self.first_ready(request) };
        let line = self.lines.get_mut(request)?;
        [retry, ready]
            .into_iter()
            .flatten()
            .filter_map(|(at_ms, items)| {
                let bucket_ms = line.rate_opens_ms(now_ms, items)?;
                Some(at_ms.max(opens_ms).max(bucket_ms))
            })
            .min()
    }

    /// The retry that can go first: one that is due, else by time.
    fn first_retry(&self, line: &Line, now_ms: Millis) -> Option<(Millis, u64)> {
        let mut first: Option<(Millis, u64)> = None;
        for ((at_ms, _), job) in &line.retries {
            if first.is_some_and(|(known, _)| known <= *at_ms) {
                break;
            }
            let Some(opens_ms) = self.lanes_open_ms(job) else {
                continue;
            };
            let at_ms = opens_ms.max(*at_ms);
            if first.is_none_or(|(known, _)| at_ms < known) {
                first = Some((at_ms, job.items()));
            }
            if at_ms <= now_ms {
                break;
            }
        }
        first
    }

    /// The job of `ready` that can go first, by time.
    fn first_ready(&self, request: usize) -> Option<(Millis, u64)> {
        let mut first: Option<(Millis, u64)> = None;
        for job in &self.lines.get(request)?.ready {
            if let Some(at_ms) = self.lanes_open_ms(job)
                && first.is_none_or(|(known, _)| at_ms < known)
            {
                first = Some((at_ms, job.items()));
            }
            if !job.split {
                break;
            }
        }
        first
    }

    /// From when on a request may go through its gate; none when an answer has to come first.
    fn opens_ms(&self, request: usize, now_ms: Millis) -> Option<Millis> {
        let rules = self.options.requests.get(request)?;
        let line = self.lines.get(request)?;
        let door = self.doors.get(rules.gate)?;
        if rules.spill_always || line.in_flight >= rules.in_flight_max {
            return None;
        }
        match door.gate.wakes_ms() {
            Some(at_ms) => (door.in_flight == 0).then_some(at_ms),
            None => door
                .gate
                .admits(now_ms, door.in_flight)
                .then_some(Millis::MIN),
        }
    }
}
