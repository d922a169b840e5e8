//! Cuts items into batches. Pure: by count, by bytes (the envelope and commas included), by age of the first item.
//!
//! Items of different groups, or made under another envelope (another datafile revision), never share a batch.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;

use super::flow::Held;
use crate::blueprint::Tables;
use crate::clock::Millis;

/// What one request may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Items.
    pub items_max: usize,
    /// Bytes of the whole body.
    pub bytes_max: usize,
    /// How long the first item waits for company.
    pub wait_ms: Millis,
}

/// What stands around the items of a request, and the tables it is made from.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    /// Changes when the values around the items change.
    pub key: u64,
    /// Bytes around the items.
    pub bytes: usize,
    /// The tables the items were mapped with.
    pub tables: Arc<Tables>,
}

/// One event's share of a request.
#[derive(Debug)]
pub(super) struct Item {
    /// Where the event is kept while it is under way.
    pub slot: usize,
    /// The request the blueprint made it for (another one may carry it).
    pub part: usize,
    /// JSON bytes.
    pub json: Bytes,
    /// Items of one lane keep their order.
    pub lane: Option<u64>,
    /// What it holds of the marks.
    pub held: Option<Box<Held>>,
}

/// Items that go out together.
#[derive(Debug)]
pub(super) struct Batch {
    /// Tells it from all other batches of the pipeline.
    pub id: u64,
    /// Index of the request in the plan.
    pub request: usize,
    /// The items, in the order they came.
    pub items: Vec<Item>,
    /// What stands around them.
    pub envelope: Envelope,
    /// When the first item came.
    pub since_ms: Millis,
    bytes: usize,
}

/// The open batches of one pipeline.
#[derive(Debug)]
pub(super) struct Batcher {
    limits: Vec<Limits>,
    open: HashMap<(usize, u64), Batch>,
    ids: u64,
}

impl Batcher {
    /// `limits` by request of the plan.
    pub(super) fn new(limits: Vec<Limits>) -> Self {
        Self {
            limits,
            open: HashMap::new(),
            ids: 0,
        }
    }

    /// A number no batch has.
    pub(super) fn new_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// The open batch an item would join, if there is one with room for it.
    pub(super) fn would_join(
        &self,
        request: usize,
        group: u64,
        json: usize,
        envelope: &Envelope,
    ) -> Option<u64> {
        let limits = self.limits.get(request)?;
        self.open
            .get(&(request, group))
            .filter(|open| open.takes(limits, json, envelope))
            .map(|open| open.id)
    }

    /// Takes out the open batches of a request, oldest first.
    pub(super) fn take(&mut self, request: usize) -> Vec<Batch> {
        let mut taken: Vec<Batch> = self
            .open
            .extract_if(|(of, _), _| *of == request)
            .map(|(_, batch)| batch)
            .collect();
        taken.sort_by_key(|batch| (batch.since_ms, batch.id));
        taken
    }

    /// Would the item exceed the limit even alone?
    pub(super) fn too_large(&self, request: usize, json: usize, envelope: &Envelope) -> bool {
        self.limits
            .get(request)
            .is_some_and(|limits| envelope.bytes.saturating_add(json) > limits.bytes_max)
    }

    /// Adds an item; batches that are thereby complete go to `cut`. Returns the batch it went into.
    pub(super) fn add(
        &mut self,
        request: usize,
        group: u64,
        item: Item,
        envelope: &Envelope,
        now_ms: Millis,
        cut: &mut Vec<Batch>,
    ) -> u64 {
        let Some(limits) = self.limits.get(request).copied() else {
            return 0;
        };
        let key = (request, group);
        let size = item.json.len() + 1; // and a comma
        if let Some(open) = self.open.get(&key)
            && !open.takes(&limits, item.json.len(), envelope)
        {
            cut.extend(self.open.remove(&key));
        }
        let ids = &mut self.ids;
        let batch = self.open.entry(key).or_insert_with(|| Batch {
            id: {
                *ids += 1;
                *ids
            },
            request,
            items: Vec::new(),
            envelope: envelope.clone(),
            since_ms: now_ms,
            bytes: envelope.bytes,
        });
        batch.items.push(item);
        batch.bytes += size;
        if batch.items.len() >= limits.items_max.max(1) || batch.bytes >= limits.bytes_max {
            let id = batch.id;
            cut.extend(self.open.remove(&key));
            return id;
        }
        batch.id
    }

    /// Cuts every batch whose first item has waited long enough, oldest first.
    pub(super) fn cut_due(&mut self, now_ms: Millis, cut: &mut Vec<Batch>) {
        let limits = &self.limits;
        let from = cut.len();
        cut.extend(
            self.open
                .extract_if(|(request, _), batch| due_at(limits, *request, batch) <= now_ms)
                .map(|(_, batch)| batch),
        );
        if let Some(new) = cut.get_mut(from..) {
            new.sort_by_key(|batch| (batch.since_ms, batch.request));
        }
    }

    /// Cuts all there is.
    pub(super) fn cut_all(&mut self, cut: &mut Vec<Batch>) {
        self.cut_due(Millis::MAX, cut);
    }

    /// When the next batch is to be cut by age.
    pub(super) fn next_due_ms(&self) -> Option<Millis> {
        self.open
            .iter()
            .map(|((request, _), batch)| due_at(&self.limits, *request, batch))
            .min()
    }
}

fn due_at(limits: &[Limits], request: usize, batch: &Batch) -> Millis {
    batch
        .since_ms
        .saturating_add(limits.get(request).map_or(0, |limits| limits.wait_ms))
}

impl Batch {
    /// A batch of items taken out of another.
    pub(super) fn of(id: u64, request: usize, items: Vec<Item>, like: &Self) -> Self {
        Self {
            id,
            request,
            items,
            envelope: like.envelope.clone(),
            since_ms: like.since_ms,
            bytes: 0,
        }
    }

    fn takes(&self, limits: &Limits, json: usize, envelope: &Envelope) -> bool {
        self.envelope.key == envelope.key && self.bytes + json <= limits.bytes_max
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn envelope(key: u64, bytes: usize) -> Envelope {
        Envelope {
            key,
            bytes,
            tables: Arc::default(),
        }
    }

    fn plain(slot: usize, json: Vec<u8>) -> Item {
        Item {
            slot,
            part: 0,
            json: json.into(),
            lane: None,
            held: None,
        }
    }

    fn body_bytes(batch: &Batch) -> usize {
        batch.envelope.bytes
            + batch
                .items
                .iter()
                .map(|item| item.json.len())
                .sum::<usize>()
            + batch.items.len().saturating_sub(1)
    }

    proptest! {
        #[test]
        fn no_item_is_lost_and_no_limit_is_broken(
            items in prop::collection::vec((0..2usize, 0..3u64, 0..2u64, 1..60usize, 0..40i64), 0..200),
            items_max in 1..12usize,
            bytes_max in 80..200usize,
        ) {
            let limits = Limits { items_max, bytes_max, wait_ms: 100 };
            let mut batcher = Batcher::new(vec![limits, limits]);
            let (mut cut, mut now) = (Vec::new(), 0);
            for (slot, (request, group, key, size, pause)) in items.iter().enumerate() {
                now += pause;
                batcher.cut_due(now, &mut cut);
                // The group is written into the item's first byte to be seen in the batch.
                let mut json = vec![b'x'; *size];
                json[0] = u8::try_from(*group).unwrap();
                let item = plain(slot, json);
                batcher.add(*request, *group, item, &envelope(*key, 20), now, &mut cut);
                prop_assert!(batcher.next_due_ms().is_none_or(|due| due > now && due <= now + 100));
            }
            batcher.cut_all(&mut cut);
            prop_assert_eq!(batcher.next_due_ms(), None);
            let mut seen: Vec<usize> = cut.iter().flat_map(|batch| batch.items.iter().map(|item| item.slot)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..items.len()).collect::<Vec<_>>());
            for batch in &cut {
                prop_assert!(!batch.items.is_empty() && batch.items.len() <= items_max);
                prop_assert!(body_bytes(batch) <= bytes_max, "{} > {}", body_bytes(batch), bytes_max);
                let first = &items[batch.items[0].slot];
                for item in &batch.items {
                    let this = &items[item.slot];
                    prop_assert_eq!((this.0, this.1, this.2), (first.0, first.1, first.2));
                }
                prop_assert!(batch.items.windows(2).all(|pair| pair[0].slot < pair[1].slot));
            }
        }
    }

    #[test]
    fn an_item_waits_for_company_only_so_long() {
        let limits = Limits {
            items_max: 10,
            bytes_max: 1_000,
            wait_ms: 100,
        };
        let mut batcher = Batcher::new(vec![limits]);
        let mut cut = Vec::new();
        for now in [0, 60] {
            let item = plain(0, vec![b'1']);
            batcher.add(0, 0, item, &envelope(0, 0), now, &mut cut);
        }
        assert_eq!(batcher.next_due_ms(), Some(100));
        batcher.cut_due(99, &mut cut);
        assert!(cut.is_empty());
        batcher.cut_due(100, &mut cut);
        assert_eq!(cut.len(), 1);
        assert_eq!(cut[0].items.len(), 2);
    }
}
