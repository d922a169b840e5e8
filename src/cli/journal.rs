//! `aqueduct journal inspect|verify|export`: a store looked at from outside. And `soak`, the writer the
//! power-loss tests drive.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};

use crate::clock::SystemClock;
use crate::journal::store::random_key;
use crate::journal::store::sqlite::SqliteStore;
use crate::journal::{
    FeedStart, Journal, Ledger, Options, Outcome, Record, Seq, Settle, Tally, inspect,
};

/// What to do with the journal of a data directory.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Describes the store: records, bytes, cursors, books.
    Inspect(Directory),
    /// Checks every block's checksum and the books of every integration; exit code 1 on any fault.
    Verify(Directory),
    /// Writes events as JSON lines to standard output.
    Export {
        /// Which store.
        #[command(flatten)]
        directory: Directory,
        /// First record to write.
        #[arg(long, default_value_t = 0)]
        from: Seq,
        /// Record to stop before.
        #[arg(long, default_value_t = Seq::MAX)]
        to: Seq,
    },
    /// Appends and settles, noting what was acknowledged: for tests.
    #[command(hide = true)]
    Soak(Soak),
}

/// Which store.
#[derive(Debug, Args)]
pub struct Directory {
    /// The data directory, when not the one of the settings.
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Directory {
    fn or<'a>(&'a self, data_dir: &'a Path) -> &'a Path {
        self.dir.as_deref().unwrap_or(data_dir)
    }
}

/// A writer to pull the plug on.
#[derive(Debug, Args)]
pub struct Soak {
    /// The data directory.
    #[arg(long)]
    dir: PathBuf,
    /// Records to append.
    #[arg(long)]
    records: u64,
    /// Where acknowledgements are noted, one line each, after the fact.
    #[arg(long)]
    acks: PathBuf,
    /// Go on when an append is refused, trying again: for full disks.
    #[arg(long)]
    patient: bool,
}

/// Runs a command; `Ok(false)` means faults were found and printed.
///
/// # Errors
/// The store could not be opened or read, or the output not be written.
pub fn run(command: JournalCommand, data_dir: &Path, out: &mut dyn Write) -> anyhow::Result<bool> {
    match command {
        JournalCommand::Inspect(chosen) => describe(chosen.or(data_dir), out).map(|()| true),
        JournalCommand::Verify(chosen) => verify(chosen.or(data_dir), out),
        JournalCommand::Export {
            directory,
            from,
            to,
        } => export(directory.or(data_dir), from..to, out),
        JournalCommand::Soak(soak) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(run_soak(&soak)).map(|()| true)
        }
    }
}

fn describe(dir: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let shape = inspect::shape(dir)?;
    writeln!(out, "journal       {}", dir.join("journal.db").display())?;
    writeln!(
        out,
        "records       {} kept ({}..{}), {} ever",
        shape.next - shape.first,
        shape.first,
        shape.next,
        shape.next
    )?;
    writeln!(
        out,
        "blocks        {} bytes kept, {} ever",
        shape.bytes_kept, shape.bytes_ever
    )?;
    if let Some((oldest, newest)) = shape.committed_ms {
        writeln!(out, "committed     {} to {}", time(oldest), time(newest))?;
    }
    writeln!(out, "duplicates    {}", shape.duplicates)?;
    writeln!(out, "dead letters  {}", shape.dead_letters)?;
    writeln!(out, "marks         {}", shape.marks)?;
    writeln!(out, "damaged       {} blocks", shape.damaged.len())?;
    for range in &shape.damaged {
        writeln!(out, "  records {}..{}", range.start, range.end)?;
    }
    writeln!(out, "feeds         {}", shape.feeds.len())?;
    for (feed, ledger) in &shape.feeds {
        writeln!(
            out,
            "  {}: from {}, cursor {}, {} runs settled above, {} parked",
            feed.id,
            feed.start,
            feed.pos,
            feed.above.len(),
            feed.parked
        )?;
        writeln!(out, "    {}", books(ledger))?;
    }
    Ok(())
}

fn verify(dir: &Path, out: &mut dyn Write) -> anyhow::Result<bool> {
    let report = inspect::verify(dir)?;
    for fault in &report.faults {
        writeln!(out, "FAULT {fault}")?;
    }
    writeln!(
        out,
        "{} blocks, {} records, {} feeds: {}",
        report.blocks,
        report.records,
        report.feeds,
        match report.faults.len() {
            0 => "every checksum is right and the books add up".to_owned(),
            n => format!("{n} faults"),
        }
    )?;
    Ok(report.faults.is_empty())
}

fn export(dir: &Path, range: Range<Seq>, out: &mut dyn Write) -> anyhow::Result<bool> {
    let mut out = std::io::BufWriter::new(out);
    let (written, damaged) = match inspect::export(dir, range, &mut out) {
        // `… | head` is no fault of ours.
        Err(inspect::InspectError::Output(error))
            if error.kind() == std::io::ErrorKind::BrokenPipe =>
        {
            return Ok(true);
        }
        other => other?,
    };
    if damaged > 0 {
        tracing::warn!(written, damaged, "some records could not be exported");
    }
    Ok(damaged == 0)
}

fn books(ledger: &Ledger) -> String {
    let sum = |list: &[(String, u64)]| list.iter().map(|(_, n)| n).sum::<u64>();
    let parts = ledger.delivered
        + sum(&ledger.skipped)
        + ledger.deduplicated
        + sum(&ledger.dead)
        + ledger.pending;
    format!(
        "accepted {} = delivered {} + skipped {} + deduplicated {} + dead {} + pending {}{}",
        ledger.accepted,
        ledger.delivered,
        sum(&ledger.skipped),
        ledger.deduplicated,
        sum(&ledger.dead),
        ledger.pending,
        if parts == ledger.accepted {
            ""
        } else {
            "  DOES NOT ADD UP"
        }
    )
}

fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string())
}

/// Appends batches of growing and shrinking size, repeats some, settles behind; after each
/// acknowledgement a line `stored FROM TO` or `settled TO` is written with one write(2).
async fn run_soak(soak: &Soak) -> anyhow::Result<()> {
    let mut acks = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&soak.acks)
        .with_context(|| format!("opening {}", soak.acks.display()))?;
    let options = Options {
        free_bytes_min: 0,
        retain_ms: 0,
        retain_bytes: 64 << 10,
        ..Options::default()
    };
    let store = SqliteStore::open(&soak.dir, random_key())?;
    let journal = Journal::open(Box::new(store), options, Arc::new(SystemClock))?;
    let feed = journal.open_feed("soak", FeedStart::At(0)).await?;
    let (mut settled, begin) = (feed.pos, *journal.end().borrow());
    let mut next = begin;
    for round in 0u64.. {
        if next >= begin + soak.records {
            break;
        }
        let n = 1 + round * 7 % 40;
        let mut batch: Vec<_> = (next..next + n)
            .map(|id| soak_record(&journal, id))
            .collect();
        // A repeat now and then: acknowledged, counted, not stored.
        if round % 5 == 4 {
            batch.push(soak_record(&journal, next - 1));
        }
        match journal.append(batch).await {
            Ok(_) => {
                acks.write_all(format!("stored {next} {}\n", next + n).as_bytes())?;
                next += n;
            }
            Err(error) if soak.patient => {
                acks.write_all(format!("refused {error}\n").as_bytes())?;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
            Err(error) => {
                acks.write_all(format!("failed {error}\n").as_bytes())?;
                bail!("append: {error}");
            }
        }
        if round % 3 == 2 && next > settled + 20 {
            let upto = next - 20;
            let settle = Settle {
                feed: "soak".to_owned(),
                done: std::iter::once(settled..upto).collect(),
                tallies: vec![Tally {
                    outcome: Outcome::Delivered,
                    reason: String::new(),
                    n: upto - settled,
                }],
                ..Settle::default()
            };
            if journal.settle(settle).await.is_ok() {
                settled = upto;
                acks.write_all(format!("settled {upto}\n").as_bytes())?;
            }
        }
        if round % 16 == 15
            && let Err(error) = journal.tidy().await
        {
            acks.write_all(format!("failed {error}\n").as_bytes())?;
            bail!("tidy: {error}");
        }
    }
    journal.close().await;
    Ok(())
}

/// Record `id` of a soak: its content follows from its number.
fn soak_record(journal: &Journal, id: u64) -> Record {
    Record {
        fingerprint: journal.fingerprint("soak", &id.to_string()),
        bytes: Bytes::from(soak_bytes(id)),
    }
}

/// What record `id` of a soak holds.
#[must_use]
pub fn soak_bytes(id: u64) -> String {
    let noise = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!(
        "{{\"id\":{id},\"noise\":\"{noise:016x}{:016x}\"}}",
        noise.rotate_left(23) ^ id
    )
}
