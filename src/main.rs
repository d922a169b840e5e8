//! The binary: words to a command, the command's result to an exit code.

use clap::Parser as _;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // Memory that comes and goes with every request is not worth clearing two megabytes at a time for.
    // Refused only by odd sandboxes, and then all works as well, only slower.
    let _refused = rustix::thread::disable_transparent_huge_pages(true);
    aqueduct::cli::Cli::parse().run()
}
