//! The real binary as a child process: for what only a process can suffer (kill -9, signals, a second one).

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::app::{ADMIN_TOKEN, WRITE_KEY};

/// A gateway process. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) ingest: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
}

/// The command with the suite's settings; a test may add to it.
pub(crate) fn command(data_dir: &Path, egress_allow: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aqueduct"));
    command
        .arg("serve")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("AQUEDUCT_DATA_DIR", data_dir)
        .env("AQUEDUCT_INGEST_LISTEN", "127.0.0.1:0")
        .env("AQUEDUCT_ADMIN_LISTEN", "127.0.0.1:0")
        .env("AQUEDUCT_METRICS_LISTEN", "127.0.0.1:0")
        .env("AQUEDUCT_WRITE_KEY", WRITE_KEY)
        .env("AQUEDUCT_ADMIN_TOKEN", ADMIN_TOKEN)
        .env("AQUEDUCT_EGRESS_ALLOW", egress_allow)
        .env("AQUEDUCT_FREE_BYTES_MIN", "1000000")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Process {
    /// Starts it and waits for its addresses.
    pub(crate) fn start(data_dir: &Path, egress_allow: &str) -> Self {
        Self::spawn(&mut command(data_dir, egress_allow))
    }

    /// Starts a prepared command and waits for its addresses.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut line).expect("stdout");
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            let mut said = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                let _closed = stderr.read_to_string(&mut said);
            }
            panic!("no ready line but {line:?}; stderr: {said}");
        };
        // Pipes nobody reads would fill up and stop the process.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        // None when the test has it written to a file.
        if let Some(mut stderr) = child.stderr.take() {
            std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        }
        let address = |name: &str| {
            ready["listening"][name]
                .as_str()
                .expect("address")
                .parse()
                .expect("address")
        };
        Self {
            ingest: address("ingest"),
            admin: address("admin"),
            metrics: address("metrics"),
            child,
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let status = Command::new("kill")
            .arg("-TERM")
            .arg(self.child.id().to_string())
            .status()
            .expect("kill");
        assert!(status.success());
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self, patience: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(began.elapsed() < patience, "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}
