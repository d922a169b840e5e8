//! Reading: the newest blocks from memory, older ones from the store, damaged ones passed over.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::block::{Decoded, decode};
use super::committer::Shared;
use super::store::{Block, Reader, StoreError};
use super::{Chunk, Seq};

/// The newest blocks, decoded; shared by all readers. Gapless.
#[derive(Debug)]
pub(super) struct Tail {
    blocks: VecDeque<Arc<Decoded>>,
    /// A few older ones read lately: chunks are often smaller than blocks.
    cold: VecDeque<Arc<Decoded>>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            blocks: VecDeque::new(),
            cold: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    pub(super) fn push(&mut self, fresh: Vec<Decoded>) {
        for block in fresh {
            self.bytes += block.weight();
            self.blocks.push_back(Arc::new(block));
        }
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.blocks.pop_front() else {
                break;
            };
            self.bytes -= oldest.weight();
        }
    }

    fn keep(&mut self, block: &Arc<Decoded>) {
        self.cold.push_back(Arc::clone(block));
        let mut bytes: usize = self.cold.iter().map(|block| block.weight()).sum();
        while bytes > self.bytes_max / 8 && self.cold.len() > 1 {
            bytes -= self.cold.pop_front().map_or(0, |block| block.weight());
        }
    }

    fn find(&self, seq: Seq) -> Option<Arc<Decoded>> {
        let at = self.blocks.partition_point(|block| block.end() <= seq);
        self.blocks
            .get(at)
            .into_iter()
            .chain(&self.cold)
            .find(|block| block.holds(seq))
            .cloned()
    }
}

/// A chunk being filled.
struct Filling {
    chunk: Chunk,
    bytes: usize,
    bytes_max: usize,
    end: Seq,
}

impl Filling {
    fn new(shared: &Shared, from: Seq, bytes_max: usize) -> Self {
        Self {
            chunk: Chunk {
                next: from,
                ..Chunk::default()
            },
            bytes: 0,
            bytes_max,
            end: *shared.end.borrow(),
        }
    }

    fn whole(&self) -> bool {
        self.chunk.next >= self.end || self.bytes >= self.bytes_max
    }

    fn add(&mut self, block: &Decoded) {
        while !self.whole()
            && let Some(entry) = block.entry(self.chunk.next)
        {
            self.bytes += entry.bytes.len().max(1);
            self.chunk.next += 1;
            self.chunk.entries.push(entry);
        }
    }

    fn skip(&mut self, range: Range<Seq>) {
        let range = range.start.max(self.chunk.next)..range.end.min(self.end);
        self.chunk.next = range.end.max(self.chunk.next);
        if !range.is_empty() {
            self.chunk.damaged.push(range);
        }
    }
}

/// What memory holds from `from` on; `None` if it does not hold `from`.
pub(super) fn from_memory(shared: &Shared, from: Seq, bytes_max: usize) -> Option<Chunk> {
    let mut filling = Filling::new(shared, from, bytes_max);
    while !filling.whole() {
        let Some(block) = shared.tail.lock().find(filling.chunk.next) else {
            break;
        };
        filling.add(&block);
    }
    (filling.whole() || filling.chunk.next > from).then_some(filling.chunk)
}

/// The same, reading from the store what memory does not hold. `report` is told of damaged blocks.
pub(super) fn from_store(
    shared: &Shared,
    reader: &Mutex<Box<dyn Reader>>,
    from: Seq,
    bytes_max: usize,
    report: &mut dyn FnMut(Block),
) -> Result<Chunk, StoreError> {
    let mut filling = Filling::new(shared, from, bytes_max);
    while !filling.whole() {
        let at = filling.chunk.next;
        let known = shared.tail.lock().find(at);
        if let Some(block) = known {
            filling.add(&block);
            continue;
        }
        let mut reader = reader.lock();
        let found = reader.blocks(at, 1)?.into_iter().next();
        let Some(block) = found else {
            filling.skip(at..filling.end);
            break;
        };
        if block.first > at {
            // A hole: the row itself is gone.
            filling.skip(at..block.first);
            continue;
        }
        match decode(block.first, &block.body) {
            Ok(decoded) if decoded.holds(at) => {
                drop(reader);
                let decoded = Arc::new(decoded);
                shared.tail.lock().keep(&decoded);
                filling.add(&decoded);
            }
            // Whole, but it ends before: what should follow is missing.
            Ok(_) => {
                let next = reader.first_after(block.first)?.unwrap_or(filling.end);
                filling.skip(at..next);
            }
            Err(error) => {
                let next = reader.first_after(block.first)?.unwrap_or(filling.end);
                drop(reader);
                tracing::error!(first = block.first, next, %error, "damaged block passed over");
                filling.skip(at..next);
                report(Block {
                    n: next.saturating_sub(block.first),
                    ..block
                });
            }
        }
    }
    Ok(filling.chunk)
}
