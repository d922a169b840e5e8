//! The commands: what each subcommand is called with, and the way from words to the function that does it.

pub mod blueprint;
pub mod journal;
mod serve;
pub mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Inputs, Settings};

/// Exit code for settings that cannot be used (EX_USAGE of sysexits.h).
const BAD_SETTINGS: u8 = 64;

/// HTTP event-forwarding gateway: durable, explained, exact server-side delivery for experimentation teams.
#[derive(Debug, Parser)]
#[command(name = "aqueduct", version, about, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    settings: SettingFlags,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Settings given as flags; they beat the environment and the file.
#[derive(Debug, Args)]
struct SettingFlags {
    /// Settings file (TOML).
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything durable lives.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// Address of the ingest listener.
    #[arg(long, global = true, value_name = "ADDR")]
    ingest_listen: Option<String>,
    /// Address of the admin listener.
    #[arg(long, global = true, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// Address of the metrics and health listener.
    #[arg(long, global = true, value_name = "ADDR")]
    metrics_listen: Option<String>,
    /// Any other setting, as key=value (may be repeated).
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl SettingFlags {
    fn inputs(&self) -> Inputs {
        let named = [
            ("data_dir", &self.data_dir),
            ("ingest_listen", &self.ingest_listen),
            ("admin_listen", &self.admin_listen),
            ("metrics_listen", &self.metrics_listen),
        ];
        let mut flags: Vec<(String, String)> = named
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)))
            .collect();
        flags.extend(self.set.iter().map(|pair| match pair.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (pair.clone(), String::new()),
        }));
        Inputs::process(self.config.clone(), flags)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway (also what happens without a command).
    Serve,
    /// Run the gateway and a vendor sandbox in a temporary directory, and show what happens to a burst of events.
    Demo {
        /// Stop after the report; exit code 0 only if the ledger balances.
        #[arg(long)]
        exit: bool,
    },
    /// Run the vendor sandbox alone: point an integration's base URL at a path of it and no account is needed.
    ///
    /// It plays Optimizely (/optimizely), Brevo (/brevo), Heap (/heap-us, /heap-eu), Pendo (/pendo-app, /pendo-data)
    /// and ODP (/odp), each with its own limits; /_sandbox tells what arrived and takes faults, policies and time.
    Sandbox {
        /// Where it listens.
        #[arg(long, default_value = "127.0.0.1:9100", value_name = "ADDR")]
        listen: std::net::SocketAddr,
    },
    /// Check blueprints and run their examples; without files, the shipped ones.
    Check {
        /// Blueprint files.
        files: Vec<PathBuf>,
        /// Print the remarks as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print each request an event would become, and which blueprint line made each field.
    Try(blueprint::Try),
    /// Read a journal without a running gateway.
    #[command(subcommand)]
    Journal(journal::JournalCommand),
    /// Admin tokens of this data directory.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Print the OpenAPI document of the admin API.
    Openapi,
    /// Exit 0 when the gateway's /readyz answers 200 (for container health checks).
    Healthcheck,
}

impl Cli {
    /// Does what the words say.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let inputs = self.settings.inputs();
        match self.command.unwrap_or(Command::Serve) {
            Command::Serve => with_settings(&inputs, |settings| in_runtime(serve::serve(settings))),
            Command::Demo { exit } => {
                with_settings(&inputs, |settings| in_runtime(serve::demo(settings, exit)))
            }
            Command::Sandbox { listen } => in_runtime(serve::sandbox(listen)),
            Command::Check { files, json: false } => shown(blueprint::run_check(&files)),
            Command::Check { files, json: true } => shown(blueprint::run_check_json(&files)),
            Command::Try(asked) => shown(blueprint::run_try(
                &asked,
                crate::clock::Clock::now_ms(&crate::clock::SystemClock),
            )),
            Command::Journal(command) => with_settings(&inputs, |settings| {
                finished(
                    journal::run(command, &settings.data_dir, &mut std::io::stdout().lock())
                        .map(passed),
                )
            }),
            Command::Token(command) => with_settings(&inputs, |settings| {
                let clock: crate::clock::SharedClock =
                    std::sync::Arc::new(crate::clock::SystemClock);
                let done = token::run(
                    &command,
                    &settings.data_dir,
                    &clock,
                    &crate::registry::random::Random::system(),
                );
                finished(
                    done.map(|text| {
                        shown(blueprint::Output {
                            text,
                            success: true,
                        })
                    })
                    .map_err(Into::into),
                )
            }),
            Command::Openapi => {
                say(&crate::admin::openapi());
                ExitCode::SUCCESS
            }
            Command::Healthcheck => {
                with_settings(&inputs, |settings| in_runtime(serve::healthcheck(settings)))
            }
        }
    }
}

/// Runs `command` with checked settings; faults go to stderr, all at once.
fn with_settings(inputs: &Inputs, command: impl FnOnce(Settings) -> ExitCode) -> ExitCode {
    match Settings::load(inputs) {
        Ok(settings) => command(settings),
        Err(error) => {
            eprintln!("aqueduct: these settings cannot be used:\n{error}");
            ExitCode::from(BAD_SETTINGS)
        }
    }
}

/// Runs `work` on a runtime; an error is printed with its causes.
fn in_runtime(work: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("aqueduct: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = finished(runtime.block_on(work));
    // Blocking reads must not hold up the end: what they read changes nothing.
    runtime.shutdown_background();
    ended
}

/// An exit code, or an error printed with its causes.
fn finished(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("aqueduct: {error:#}");
        ExitCode::FAILURE
    })
}

/// Success, or failure when faults were found and printed.
fn passed(all_well: bool) -> ExitCode {
    if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints what a command says.
fn shown(output: blueprint::Output) -> ExitCode {
    say(output.text.trim_end());
    passed(output.success)
}

/// Prints a text. Whoever read it may have seen enough and be gone (`| head`): that is no fault of ours.
fn say(text: &str) {
    let _reader_gone =
        std::io::Write::write_fmt(&mut std::io::stdout().lock(), format_args!("{text}\n"));
}
