//! The bytes of a block: encode and decode, pure.
//!
//! Layout, little endian (persisted: must be kept stable):
//! `format u8 | crc32 u32 | first u64 | count u32 | at_ms i64 | raw_len u32 | lz4([len u32 | record]*)`.
//! The checksum covers every byte but its own four. `first` stands inside so that a block found in the
//! wrong place is noticed.

use bytes::Bytes;

use super::{Entry, Seq};
use crate::clock::Millis;

/// The only format so far.
const FORMAT: u8 = 1;
const HEADER: usize = 29;
/// A block claiming to be larger than this is not one of ours.
const RAW_MAX: usize = 1 << 30;

/// Why bytes are no block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Shorter than a header.
    #[error("{0} bytes are too few for a block")]
    Short(usize),
    /// Written by a later version, or the first byte is damaged.
    #[error("unknown block format {0}")]
    Format(u8),
    /// Some byte differs from what was written.
    #[error("checksum is {found:08x}, should be {stored:08x}")]
    Checksum {
        /// What the block says.
        stored: u32,
        /// What its bytes give.
        found: u32,
    },
    /// A whole block, but of another place.
    #[error("block of record {found} lies at the place of record {expected}")]
    Misplaced {
        /// The place it was found at.
        expected: Seq,
        /// The place it belongs to.
        found: Seq,
    },
    /// The checksum is right and yet the content makes no sense.
    #[error("block content: {0}")]
    Content(&'static str),
}

/// Collects records and seals them into blocks, one after another. Its buffers are used again: at full rate, fresh ones
/// for every block cost more in page faults than the packing.
#[derive(Debug, Default)]
pub struct Builder {
    raw: Vec<u8>,
    packed: Vec<u8>,
    records: Vec<Bytes>,
}

impl Builder {
    /// Adds one record.
    pub fn push(&mut self, record: &Bytes) {
        let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
        self.raw.extend_from_slice(&len.to_le_bytes());
        self.raw.extend_from_slice(record);
        self.records.push(record.clone());
    }

    /// Records so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is nothing to seal.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes so far, before compression.
    #[must_use]
    pub fn raw_len(&self) -> usize {
        self.raw.len()
    }

    /// The stored bytes, and the same records as readers get them. Afterwards the builder is empty.
    #[must_use]
    pub fn seal(&mut self, first: Seq, at_ms: Millis) -> (Vec<u8>, Decoded) {
        let most = lz4_flex::block::get_maximum_output_size(self.raw.len());
        if self.packed.len() < most {
            self.packed.resize(most, 0);
        }
        let packed = lz4_flex::block::compress_into(&self.raw, &mut self.packed).unwrap_or(0);
        let mut out = Vec::with_capacity(HEADER + packed);
        out.resize(HEADER, 0);
        out.extend_from_slice(&self.packed[..packed]);
        out[0] = FORMAT;
        out[5..13].copy_from_slice(&first.to_le_bytes());
        out[13..17].copy_from_slice(&(self.records.len() as u32).to_le_bytes());
        out[17..25].copy_from_slice(&at_ms.to_le_bytes());
        out[25..29].copy_from_slice(&(self.raw.len() as u32).to_le_bytes());
        let crc = checksum(&out);
        out[1..5].copy_from_slice(&crc.to_le_bytes());
        self.raw.clear();
        let decoded = Decoded {
            first,
            at_ms,
            records: Records::Apart(std::mem::take(&mut self.records)),
        };
        (out, decoded)
    }
}

/// A block's records in memory.
#[derive(Debug)]
pub struct Decoded {
    /// Number of the first record.
    pub first: Seq,
    /// When the block was committed.
    pub at_ms: Millis,
    records: Records,
}

/// As they came, or as they were read.
#[derive(Debug)]
enum Records {
    /// Each where its request left it.
    Apart(Vec<Bytes>),
    /// In one allocation, each behind its length; where each ends.
    Packed { raw: Bytes, ends: Vec<u32> },
}

impl Decoded {
    fn len(&self) -> usize {
        match &self.records {
            Records::Apart(records) => records.len(),
            Records::Packed { ends, .. } => ends.len(),
        }
    }

    /// Number after the last record.
    #[must_use]
    pub fn end(&self) -> Seq {
        self.first + self.len() as u64
    }

    /// Whether the record is in here.
    #[must_use]
    pub fn holds(&self, seq: Seq) -> bool {
        (self.first..self.end()).contains(&seq)
    }

    /// Memory taken.
    #[must_use]
    pub fn weight(&self) -> usize {
        let records = match &self.records {
            Records::Apart(records) => records.iter().map(|record| record.len() + 32).sum(),
            Records::Packed { raw, ends } => raw.len() + ends.len() * 4,
        };
        records + 128
    }

    /// One record.
    #[must_use]
    pub fn entry(&self, seq: Seq) -> Option<Entry> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        let bytes = match &self.records {
            Records::Apart(records) => records.get(index)?.clone(),
            Records::Packed { raw, ends } => {
                let end = *ends.get(index)? as usize;
                let start = match index {
                    0 => 0,
                    _ => *ends.get(index - 1)? as usize,
                };
                raw.slice(start + 4..end)
            }
        };
        Some(Entry {
            seq,
            at_ms: self.at_ms,
            bytes,
        })
    }
}

/// Reads a block that should start with record `expected`.
///
/// # Errors
/// Anything that differs from what was written.
pub fn decode(expected: Seq, bytes: &[u8]) -> Result<Decoded, BlockError> {
    if bytes.len() < HEADER {
        return Err(BlockError::Short(bytes.len()));
    }
    if bytes[0] != FORMAT {
        return Err(BlockError::Format(bytes[0]));
    }
    let stored = u32::from_le_bytes(array(&bytes[1..5]));
    let found = checksum(bytes);
    if stored != found {
        return Err(BlockError::Checksum { stored, found });
    }
    let first = u64::from_le_bytes(array(&bytes[5..13]));
    if first != expected {
        return Err(BlockError::Misplaced {
            expected,
            found: first,
        });
    }
    let count = u32::from_le_bytes(array(&bytes[13..17])) as usize;
    let at_ms = i64::from_le_bytes(array(&bytes[17..25]));
    let raw_len = u32::from_le_bytes(array(&bytes[25..29])) as usize;
    if raw_len > RAW_MAX || count > raw_len / 4 {
        return Err(BlockError::Content("impossible length"));
    }
    let raw = lz4_flex::block::decompress(&bytes[HEADER..], raw_len)
        .map_err(|_| BlockError::Content("cannot be unpacked"))?;
    let mut ends = Vec::with_capacity(count);
    let mut at = 0usize;
    while at < raw.len() {
        let len = raw
            .get(at..at + 4)
            .ok_or(BlockError::Content("cut length"))?;
        at += 4 + u32::from_le_bytes(array(len)) as usize;
        if at > raw.len() {
            return Err(BlockError::Content("cut record"));
        }
        ends.push(u32::try_from(at).unwrap_or(u32::MAX));
    }
    if ends.len() != count {
        return Err(BlockError::Content("wrong number of records"));
    }
    Ok(Decoded {
        first,
        at_ms,
        records: Records::Packed {
            raw: Bytes::from(raw),
            ends,
        },
    })
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..1]);
    hasher.update(&bytes[5..]);
    hasher.finalize()
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(records: &[&[u8]], first: Seq) -> Vec<u8> {
        let mut builder = Builder::default();
        for record in records {
            builder.push(&Bytes::copy_from_slice(record));
        }
        builder.seal(first, 1_700_000_000_000).0
    }

    #[test]
    fn reads_what_was_written() {
        let big = vec![7u8; 70_000];
        let bytes = sealed(&[b"one", b"", &big], 41);
        let block = decode(41, &bytes).unwrap();
        assert_eq!((block.first, block.end()), (41, 44));
        assert_eq!(&block.entry(41).unwrap().bytes[..], b"one");
        assert_eq!(&block.entry(42).unwrap().bytes[..], b"");
        assert_eq!(&block.entry(43).unwrap().bytes[..], &big[..]);
        assert!(block.entry(44).is_none() && block.entry(40).is_none());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = sealed(&[b"{\"a\":1}", b"{\"b\":22}", b"{\"a\":1}"], 5);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(decode(5, &bad).is_err(), "byte {at} bit {bit}");
            }
            assert!(decode(5, &bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(matches!(
            decode(6, &bytes),
            Err(BlockError::Misplaced {
                expected: 6,
                found: 5
            })
        ));
    }
}
