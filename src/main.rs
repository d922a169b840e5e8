//! The binary: words to a command, the command's result to an exit code.

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    aqueduct::cli::Cli::parse().run()
}
