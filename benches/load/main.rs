//! The load harness: starts the release gateway and the vendor sandbox on loopback ports, posts to them, prints a table
//! and reconciles every acknowledged id at the vendor.
//!
//! `cargo bench --bench load -- [--quick] [--only NAME]… [--dir DIR] [--rounds N] [--seed N]`; names: `sandbox`,
//! `single`, `batch`, `drain`, `flat`, `isolation`, `kill9`, `pages`. Exits 1 when an event was lost or repeated
//! under another identity, or (without `--quick`) when a goal was missed.

mod ceiling;
mod kit;
mod pages;
mod scenarios;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;

use scenarios::{Bench, SCENARIOS};
use table::Table;

#[derive(Debug, Parser)]
#[command(name = "load")]
struct Arguments {
    /// Smaller sizes, goals not enforced: shows that everything works.
    #[arg(long)]
    quick: bool,
    /// Only these scenarios.
    #[arg(long)]
    only: Vec<String>,
    /// Where data directories are made (a disk whose sync is real).
    #[arg(long, default_value = "target/load")]
    dir: PathBuf,
    /// The gateway to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_aqueduct"))]
    binary: PathBuf,
    /// Kills of `kill9`.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Seed of `kill9`.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Given by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match measure(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: Arguments) -> Result<bool> {
    for name in &arguments.only {
        if !SCENARIOS.iter().any(|(known, _)| known == name) {
            let names: Vec<&str> = SCENARIOS.iter().map(|(known, _)| *known).collect();
            bail!("no scenario `{name}`; there are {}", names.join(", "));
        }
    }
    let mut bench = Bench {
        binary: arguments.binary,
        dir: arguments.dir,
        quick: arguments.quick,
        rounds: arguments.rounds,
        seed: arguments.seed,
        table: Table::default(),
        ceiling: None,
        broken: Vec::new(),
    };
    for (name, scenario) in SCENARIOS {
        if arguments.only.is_empty() || arguments.only.iter().any(|only| only == name) {
            eprintln!("{name}");
            // What the one before left to be written is none of this one's business.
            rustix::fs::sync();
            if let Err(error) = scenario(&mut bench) {
                bench.broken.push(format!("{name}: {error:#}"));
            }
        }
    }
    let missed = bench.table.print();
    for broken in &bench.broken {
        println!("FAILED {broken}");
    }
    Ok(bench.broken.is_empty() && (bench.quick || missed == 0))
}
