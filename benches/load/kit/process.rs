//! A process under test: started, waited for until ready, measured, stopped by its id.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Longest wait for a process to say where it listens.
const READY_MAX: Duration = Duration::from_secs(60);

/// A running child. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
    log: std::path::PathBuf,
    /// The `listening` object of its ready line.
    pub(crate) listening: Value,
    /// From start to ready line.
    pub(crate) ready_after: Duration,
}

impl Process {
    /// Starts `binary args…` with these settings; its standard error is appended to `log`.
    pub(crate) fn start(
        binary: &Path,
        args: &[&str],
        settings: &[(&str, String)],
        log: &Path,
    ) -> Result<Self> {
        let name = args.first().copied().unwrap_or("process").to_owned();
        let errors = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("log file {}", log.display()))?;
        let started = Instant::now();
        let mut child = Command::new(binary)
            .args(args)
            .envs(settings.iter().map(|(key, value)| (*key, value.as_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        let stdout = child.stdout.take().context("stdout")?;
        let (lines, received) = channel();
        // Reads on after the ready line: a full pipe would stop the child.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let mut process = Self {
            child,
            name,
            log: log.to_owned(),
            listening: Value::Null,
            ready_after: Duration::ZERO,
        };
        process.listening = process.wait_ready(&received)?;
        process.ready_after = started.elapsed();
        Ok(process)
    }

    fn wait_ready(&mut self, lines: &Receiver<String>) -> Result<Value> {
        let until = Instant::now() + READY_MAX;
        loop {
            match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Ok(mut json) = serde_json::from_str::<Value>(&line)
                        && let Some(listening) = json.get_mut("listening")
                    {
                        return Ok(listening.take());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("`{}` was not ready within {READY_MAX:?}", self.name)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!(
                        "`{}` ended ({status}) before it was ready; see {}",
                        self.name,
                        self.log.display()
                    );
                }
            }
        }
    }

    /// Where it listens, e.g. for `ingest`: `127.0.0.1:41999`.
    pub(crate) fn address(&self, listener: &str) -> Result<String> {
        self.listening[listener]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("no `{listener}` in the ready line: {}", self.listening))
    }

    /// Whether it still runs.
    pub(crate) fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill9(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits until it is gone; the time that took.
    pub(crate) fn terminate(mut self, most: Duration) -> Result<Duration> {
        let asked = Instant::now();
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status()?;
        if !sent.success() {
            bail!("kill -TERM {pid}: {sent}");
        }
        while asked.elapsed() < most {
            if let Some(status) = self.child.try_wait()? {
                if !status.success() {
                    bail!("`{}` ended with {status} on SIGTERM", self.name);
                }
                return Ok(asked.elapsed());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("`{}` still ran {most:?} after SIGTERM", self.name)
    }

    /// A field of `/proc/{pid}/status` in bytes: `VmRSS`, `VmHWM`.
    pub(crate) fn memory(&self, field: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .with_context(|| format!("no {field} in /proc/…/status"))?;
        Ok(kilobytes * 1024)
    }

    /// CPU time used so far, user and system.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name in brackets may hold spaces: fields are counted from behind it.
        let ticks: u64 = stat
            .rsplit_once(')')
            .map(|(_, rest)| {
                rest.split_whitespace()
                    .skip(11)
                    .take(2)
                    .filter_map(|field| field.parse::<u64>().ok())
                    .sum()
            })
            .context("/proc/…/stat")?;
        // USER_HZ is 100 on every Linux we meet.
        Ok(Duration::from_millis(ticks * 10))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
