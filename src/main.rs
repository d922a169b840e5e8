//! The binary: words to a command, the command's result to an exit code.

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    aqueduct::cli::Cli::parse().run()
}
