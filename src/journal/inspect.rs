//! Reading a store without a running gateway: what is in it, whether every byte is as written, whether
//! the books add up. Opens read-only, changes nothing, works beside a running gateway.

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use super::block::decode;
use super::feed::FeedState;
use super::store::sqlite::SqliteReader;
use super::store::{Loaded, OpenError, Reader, StoreError};
use super::{DeadFilter, Ledger, Seq};
use crate::clock::Millis;

/// Why a store could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It could not be read.
    #[error("journal store: {0}")]
    Store(#[from] StoreError),
    /// What was read could not be written out.
    #[error("writing the output: {0}")]
    Output(#[from] std::io::Error),
}

/// A store's shape.
#[derive(Debug)]
pub struct Shape {
    /// First record kept.
    pub first: Seq,
    /// Number the next record gets.
    pub next: Seq,
    /// Repeated posts ever.
    pub duplicates: u64,
    /// Bytes of all blocks ever stored.
    pub bytes_ever: u64,
    /// Bytes of the blocks kept.
    pub bytes_kept: u64,
    /// When the oldest and the newest block kept were committed.
    pub committed_ms: Option<(Millis, Millis)>,
    /// Records whose blocks were set aside as damaged.
    pub damaged: Vec<Range<Seq>>,
    /// Dead letters kept.
    pub dead_letters: u64,
    /// What feeds remember of what they sent.
    pub marks: u64,
    /// Every feed, and its books.
    pub feeds: Vec<(FeedState, Ledger)>,
}

/// What verifying found.
#[derive(Debug, Default)]
pub struct Report {
    /// Blocks read.
    pub blocks: u64,
    /// Records in them.
    pub records: u64,
    /// Feeds whose books were checked.
    pub feeds: usize,
    /// Everything that is not as it should be, in words.
    pub faults: Vec<String>,
}

/// Describes the journal of a data directory.
///
/// # Errors
/// It could not be opened or read.
pub fn shape(dir: &Path) -> Result<Shape, InspectError> {
    let mut reader = SqliteReader::open(dir)?;
    reader.freeze()?;
    let loaded = reader.load()?;
    let oldest = reader.block_at(loaded.first)?;
    let newest = reader.block_at(loaded.next)?;
    let before = oldest
        .as_ref()
        .map_or(loaded.bytes, |block| block.bytes_before);
    Ok(Shape {
        first: loaded.first,
        next: loaded.next,
        duplicates: loaded.duplicates,
        bytes_ever: loaded.bytes,
        bytes_kept: loaded.bytes.saturating_sub(before),
        committed_ms: oldest
            .zip(newest)
            .map(|(oldest, newest)| (oldest.at_ms, newest.at_ms)),
        damaged: reader.damaged()?,
        dead_letters: reader.dead_count(&DeadFilter::default())?.0,
        marks: reader.marks_kept()?,
        feeds: loaded
            .feeds
            .iter()
            .map(|feed| (feed.clone(), feed.ledger(loaded.next, loaded.duplicates)))
            .collect(),
    })
}

/// Reads every block and checks every number.
///
/// # Errors
/// It could not be opened or read. Damage is no error but part of the report.
pub fn verify(dir: &Path) -> Result<Report, InspectError> {
    let mut reader = SqliteReader::open(dir)?;
    reader.freeze()?;
    let loaded = reader.load()?;
    let mut report = Report {
        feeds: loaded.feeds.len(),
        ..Report::default()
    };
    for line in reader.structure()? {
        report.faults.push(format!("database structure: {line}"));
    }
    walk(
        &mut reader,
        &loaded,
        loaded.first..loaded.next,
        &mut |piece| {
            match piece {
                Piece::Block(decoded) => {
                    report.blocks += 1;
                    report.records += decoded.end() - decoded.first;
                }
                Piece::Damaged(range, why) => report
                    .faults
                    .push(format!("records {}..{}: {why}", range.start, range.end)),
            }
            Ok(())
        },
    )?;
    check_books(&mut reader, &loaded, &mut report)?;
    Ok(report)
}

/// Writes the records of a range as they are, one per line. Returns how many, and how many were damaged.
///
/// # Errors
/// It could not be opened, read, or written out.
pub fn export(
    dir: &Path,
    range: Range<Seq>,
    out: &mut dyn Write,
) -> Result<(u64, u64), InspectError> {
    let mut reader = SqliteReader::open(dir)?;
    reader.freeze()?;
    let loaded = reader.load()?;
    let range = range.start.max(loaded.first)..range.end.min(loaded.next);
    let (mut written, mut damaged) = (0, 0);
    walk(&mut reader, &loaded, range.clone(), &mut |piece| {
        match piece {
            Piece::Block(decoded) => {
                for seq in decoded.first.max(range.start)..decoded.end().min(range.end) {
                    if let Some(entry) = decoded.entry(seq) {
                        out.write_all(&entry.bytes)?;
                        out.write_all(b"\n")?;
                        written += 1;
                    }
                }
            }
            Piece::Damaged(lost, _) => {
                damaged += lost.end.min(range.end) - lost.start.max(range.start);
            }
        }
        Ok(())
    })?;
    out.flush()?;
    Ok((written, damaged))
}

enum Piece {
    Block(super::block::Decoded),
    Damaged(Range<Seq>, String),
}

/// Visits every block of a range, and every gap and damage between.
fn walk(
    reader: &mut SqliteReader,
    loaded: &Loaded,
    range: Range<Seq>,
    visit: &mut dyn FnMut(Piece) -> Result<(), InspectError>,
) -> Result<(), InspectError> {
    let mut at = range.start;
    while at < range.end {
        let Some(block) = reader.blocks(at, 1)?.into_iter().next() else {
            visit(Piece::Damaged(
                at..range.end,
                "no block holds them".to_owned(),
            ))?;
            break;
        };
        if block.first > at {
            visit(Piece::Damaged(
                at..block.first,
                "no block holds them".to_owned(),
            ))?;
            at = block.first;
            continue;
        }
        let next = reader.first_after(block.first)?.unwrap_or(loaded.next);
        match decode(block.first, &block.body) {
            Ok(decoded) => {
                let end = decoded.end();
                if decoded.holds(at) {
                    visit(Piece::Block(decoded))?;
                }
                if end < next {
                    visit(Piece::Damaged(end..next, "no block holds them".to_owned()))?;
                }
            }
            Err(error) => visit(Piece::Damaged(block.first..next, error.to_string()))?,
        }
        at = next.max(at + 1);
    }
    Ok(())
}

fn check_books(
    reader: &mut SqliteReader,
    loaded: &Loaded,
    report: &mut Report,
) -> Result<(), InspectError> {
    for feed in &loaded.feeds {
        let mut fault = |text: String| report.faults.push(format!("feed `{}`: {text}", feed.id));
        let top = feed.above.last().map_or(feed.pos, |run| run.end);
        if feed.start > feed.pos || top > loaded.next {
            fault(format!(
                "cursor {} (start {}, runs up to {top}) is outside of the journal, which ends at {}",
                feed.pos, feed.start, loaded.next
            ));
        } else if !feed.balances() {
            fault(format!(
                "{} records passed, but {} tallied and {} parked",
                feed.passed(),
                feed.tallies.values().sum::<u64>(),
                feed.parked
            ));
        }
        if feed.pos < loaded.first {
            fault(format!(
                "records {}..{} are trimmed though not settled",
                feed.pos, loaded.first
            ));
        }
        let filter = DeadFilter {
            feed: Some(feed.id.clone()),
            ..DeadFilter::default()
        };
        let (kept, _) = reader.dead_count(&filter)?;
        let tallied: u64 = feed
            .ledger(loaded.next, loaded.duplicates)
            .dead
            .iter()
            .map(|(_, n)| n)
            .sum();
        if kept > tallied {
            fault(format!("{kept} dead letters kept, but {tallied} tallied"));
        }
    }
    Ok(())
}
