//! Power loss, a failing sync and a full disk, with the real program: its file operations are recorded
//! and hindered by a preloaded shim. What was acknowledged must be there afterwards.

#![expect(clippy::unwrap_used, reason = "a test: it should stop where it fails")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aqueduct::cli::journal::soak_bytes;
use aqueduct::journal::inspect;
use aqueduct::journal::store::sqlite::SqliteStore;

mod gateway;
mod images;

/// A directory for one run: data, trace, control files and the shim.
pub(crate) struct Rig {
    root: tempfile::TempDir,
    shim: PathBuf,
}

impl Rig {
    /// Builds the shim with the system's C compiler.
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let shim = root.path().join("shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/power_loss/shim.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&shim, &source])
            .args(["-ldl", "-lpthread"])
            .status()
            .expect("a C compiler is needed: apt-get install gcc");
        assert!(built.success());
        std::fs::create_dir(root.path().join("control")).unwrap();
        std::fs::create_dir(root.path().join("data")).unwrap();
        Self { root, shim }
    }

    /// The data directory; `acks` in it marks what was acknowledged.
    pub(crate) fn data(&self) -> PathBuf {
        self.root.path().canonicalize().unwrap().join("data")
    }

    /// The record so far.
    pub(crate) fn trace(&self) -> Vec<u8> {
        std::fs::read(self.trace_path()).unwrap_or_default()
    }

    /// Where the record is.
    pub(crate) fn trace_path(&self) -> PathBuf {
        self.root.path().join("trace")
    }

    /// Puts a program under the shim. With `traced` false it is hindered, but not recorded.
    pub(crate) fn preload(&self, command: &mut Command, traced: bool) {
        command
            .env("LD_PRELOAD", &self.shim)
            .env("SHIM_DIR", self.data())
            .env("SHIM_CONTROL", self.root.path().join("control"))
            .stdin(Stdio::null());
        if traced {
            command.env("SHIM_TRACE", self.trace_path());
        }
    }

    /// Sets a control file (`fail_sync`, `full`), or removes it. At once: the program may look any time.
    pub(crate) fn control(&self, name: &str, value: Option<u64>) {
        let path = self.root.path().join("control").join(name);
        match value {
            Some(value) => {
                let draft = self.root.path().join("draft");
                File::create(&draft)
                    .and_then(|mut file| write!(file, "{value}"))
                    .unwrap();
                std::fs::rename(&draft, &path).unwrap();
            }
            None => std::fs::remove_file(&path).unwrap(),
        }
    }

    fn soak(&self, traced: bool, records: u64) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aqueduct"));
        self.preload(&mut command, traced);
        command
            .args(["journal", "soak", "--records", &records.to_string()])
            .arg("--dir")
            .arg(self.data())
            .arg("--acks")
            .arg(self.data().join("acks"));
        command
    }

    fn acks(&self) -> String {
        std::fs::read_to_string(self.data().join("acks")).unwrap_or_default()
    }
}

/// Waits until the process ends, two minutes at most.
fn wait(mut child: Child) -> bool {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the program did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Highest record acknowledged as stored (exclusive), and as settled.
fn promised(acks: &str) -> (u64, u64) {
    let highest = |word: &str| {
        acks.lines()
            .filter_map(|line| {
                line.strip_prefix(word)?
                    .split(' ')
                    .next_back()?
                    .parse()
                    .ok()
            })
            .max()
            .unwrap_or(0u64)
    };
    (highest("stored "), highest("settled "))
}

/// Opens a soaked store as after a crash and checks it against what was acknowledged.
fn check(dir: &Path, acks: &str, label: &str) {
    let (stored, settled) = promised(acks);
    if !dir.join("journal.db").exists() {
        assert_eq!((stored, settled), (0, 0), "no journal: {label}");
        return;
    }
    let report = inspect::verify(dir).unwrap_or_else(|error| panic!("{label}: {error}"));
    assert!(report.faults.is_empty(), "{label}: {:?}", report.faults);
    let shape = inspect::shape(dir).unwrap();
    assert!(
        shape.next >= stored,
        "{label}: {stored} acknowledged, {} there",
        shape.next
    );
    if let Some((feed, _)) = shape.feeds.first() {
        assert!(
            feed.pos >= settled,
            "{label}: settled {settled}, cursor {}",
            feed.pos
        );
    } else {
        assert_eq!(stored, 0, "{label}");
    }
    let mut lines = Vec::new();
    inspect::export(dir, 0..u64::MAX, &mut lines).unwrap();
    let lines = String::from_utf8(lines).unwrap();
    let mut id = shape.first;
    for line in lines.lines() {
        assert_eq!(line, soak_bytes(id), "{label}");
        id += 1;
    }
    assert_eq!(id, shape.next, "{label}");
}

#[test]
fn images() {
    let rig = Rig::new();
    assert!(wait(rig.soak(true, 2_400).spawn().unwrap()));
    let trace = rig.trace();
    let (mut promises, mut last, mut opened) = (0, 0, 0);
    let images = images::each_image(&trace, 20_261_121, 4, &mut |image| {
        let dir = tempfile::tempdir_in(rig.root.path()).unwrap();
        image.materialise(dir.path());
        check(dir.path(), &image.acks, &image.label);
        opened += 1;
        if opened % 8 == 0 {
            // The gateway's own way of opening, which writes.
            drop(SqliteStore::open(dir.path(), [0; 16]).expect(&image.label));
            check(dir.path(), &image.acks, &image.label);
        }
        let (stored, _) = promised(&image.acks);
        promises += u64::from(stored > last);
        last = stored;
    });
    assert!(images >= 1_000, "only {images} images");
    assert!(
        promises >= 100 && last >= 2_300,
        "{promises} promises seen, last {last}"
    );
    println!("{images} crash images, {last} records acknowledged in the end, 0 lost");
}

/// The kit must be able to find a loss: with the log's syncs only pretended, acknowledged records are
/// missing from some image.
#[test]
fn images_find_a_pretended_sync() {
    let rig = Rig::new();
    assert!(wait(rig.soak(true, 400).spawn().unwrap()));
    let trace = images::pretend_syncs(&rig.trace(), "journal.db-wal");
    let mut lost = 0;
    images::each_image(&trace, 1, 1, &mut |image| {
        let dir = tempfile::tempdir_in(rig.root.path()).unwrap();
        image.materialise(dir.path());
        let next = inspect::shape(dir.path()).map_or(0, |shape| shape.next);
        lost += u64::from(next < promised(&image.acks).0);
    });
    assert!(lost > 10, "{lost}");
}

#[test]
fn a_failed_sync_ends_acknowledging() {
    for (nth, all) in [
        (3, false),
        (40, false),
        (41, true),
        (42, false),
        (43, true),
        (0, false),
    ] {
        let rig = Rig::new();
        rig.control("fail_sync", Some(nth));
        let child = rig.soak(false, 4_000).spawn().unwrap();
        assert!(!wait(child), "sync {nth} failed and nobody noticed");
        let acks = rig.acks();
        if nth > 10 {
            let last = acks.lines().last().unwrap_or_default();
            assert!(last.starts_with("failed"), "sync {nth}: {acks}");
        }
        rig.control("fail_sync", None);
        if all {
            assert!(wait(rig.soak(false, 100).spawn().unwrap()), "clean restart");
        }
        check(&rig.data(), &rig.acks(), &format!("sync {nth} failed"));
    }
}

#[test]
fn a_full_disk_refuses_then_goes_on_by_itself() {
    let rig = Rig::new();
    rig.control("full", Some(600 << 10));
    let child = rig.soak(false, 3_000).arg("--patient").spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !rig.acks().contains("refused") {
        assert!(
            Instant::now() < deadline,
            "the disk never got full: {}",
            rig.acks()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    rig.control("full", None);
    assert!(wait(child), "{}", rig.acks());
    let acks = rig.acks();
    assert!(promised(&acks).0 >= 3_000);
    check(&rig.data(), &acks, "full and freed");
}
