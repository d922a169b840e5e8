//! Crash images: what a disk may hold after the power went, worked out from a recorded trace.
//!
//! At every sync an image is cut just before it took effect and just after. Of what was not synced by
//! then, any subset may be there: of every write any of its 512-byte sectors, truncations or not, and
//! names made or changed without a sync of the directory up to any point in their order. What was synced
//! is there, and so is what a write did not touch.

use std::collections::BTreeMap;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SECTOR: u64 = 512;

/// One step of the trace.
#[derive(Debug)]
struct Step<'a> {
    op: u8,
    name: &'a str,
    offset: u64,
    data: &'a [u8],
}

/// Reads the shim's record. A last step cut short (the process was killed) is left out.
fn steps(trace: &[u8]) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = trace;
    while let Some((step, after)) = step(rest) {
        steps.push(step);
        rest = after;
    }
    steps
}

fn step(bytes: &[u8]) -> Option<(Step<'_>, &[u8])> {
    let (op, rest) = bytes.split_first()?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<8>()?;
    let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
    let (data, rest) = rest.split_at_checked(len)?;
    let step = Step {
        op: *op,
        name: std::str::from_utf8(name).ok()?,
        offset: u64::from_le_bytes(*offset),
        data,
    };
    Some((step, rest))
}

/// The same trace with the syncs of one file only pretended: to see that the kit finds what that loses.
pub(crate) fn pretend_syncs(trace: &[u8], name: &str) -> Vec<u8> {
    let mut out = trace.to_vec();
    let mut rest = trace;
    while let Some((step, after)) = step(rest) {
        if step.op == b'S' && step.name == name {
            out[trace.len() - rest.len()] = b'E';
        }
        rest = after;
    }
    out
}

#[derive(Debug, Clone)]
enum Unsynced<'a> {
    Write(u64, &'a [u8]),
    Truncate(u64),
}

/// A file: what is surely on disk, and what may be.
#[derive(Debug, Default, Clone)]
struct Inode<'a> {
    durable: Vec<u8>,
    unsynced: Vec<Unsynced<'a>>,
}

#[derive(Debug, Clone)]
enum Naming {
    Set(String, usize),
    Remove(String),
}

/// The directory as the kernel had it, and as the disk may have it.
#[derive(Debug, Default)]
struct Disk<'a> {
    inodes: Vec<Inode<'a>>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<Naming>,
    acks: Vec<u8>,
    vendor: Vec<u8>,
}

/// What the disk may hold after the power went.
#[derive(Debug)]
pub(crate) struct Image {
    /// Every file.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// What was written to the file `acks` before that moment.
    pub(crate) acks: String,
    /// What was written to the file `vendor` before that moment.
    pub(crate) vendor: String,
    /// Which moment and which variant, for messages.
    pub(crate) label: String,
}

impl Image {
    /// Writes the image into an empty directory.
    pub(crate) fn materialise(&self, dir: &Path) {
        for (name, bytes) in &self.files {
            std::fs::write(dir.join(name), bytes).unwrap();
        }
    }
}

impl<'a> Disk<'a> {
    fn name(&mut self, naming: Naming) {
        apply(&mut self.names, &naming);
        self.unsynced_names.push(naming);
    }

    fn inode(&mut self, name: &str) -> &mut Inode<'a> {
        if !self.names.contains_key(name) {
            self.inodes.push(Inode::default());
            self.name(Naming::Set(name.to_owned(), self.inodes.len() - 1));
        }
        &mut self.inodes[self.names[name]]
    }

    fn take(&mut self, step: &Step<'a>) {
        match (step.op, step.name) {
            (b'W', "acks") => self.acks.extend_from_slice(step.data),
            (b'W', "vendor") => self.vendor.extend_from_slice(step.data),
            // The lock and SQLite's shared index hold nothing that outlives the process.
            (_, "acks" | "lock") => {}
            (_, name) if name.ends_with("-shm") => {}
            (b'C', name) => {
                self.names.remove(name);
                self.inode(name);
            }
            (b'W', name) => {
                let write = Unsynced::Write(step.offset, step.data);
                self.inode(name).unsynced.push(write);
            }
            (b'T', name) => {
                let cut = Unsynced::Truncate(step.offset);
                self.inode(name).unsynced.push(cut);
            }
            (b'S', "") => {
                self.durable_names = self.names.clone();
                self.unsynced_names.clear();
            }
            (b'S', name) => {
                let inode = self.inode(name);
                for one in std::mem::take(&mut inode.unsynced) {
                    play(&mut inode.durable, &one, |_| true);
                }
            }
            (b'U', name) => self.name(Naming::Remove(name.to_owned())),
            (b'R', name) => {
                let to = String::from_utf8_lossy(step.data).into_owned();
                let inode = self.names[name];
                self.name(Naming::Remove(name.to_owned()));
                self.name(Naming::Set(to, inode));
            }
            _ => {}
        }
    }

    /// One of the states the disk may be in. `share` of the unsynced sectors are there.
    fn cut(&self, rng: &mut StdRng, share: f64, torn: bool, label: String) -> Image {
        let mut names = self.durable_names.clone();
        let kept = match share {
            0.0 => 0,
            1.0 => self.unsynced_names.len(),
            _ => rng.random_range(0..=self.unsynced_names.len()),
        };
        for naming in &self.unsynced_names[..kept] {
            apply(&mut names, naming);
        }
        let files = names.into_iter().map(|(name, inode)| {
            let inode = &self.inodes[inode];
            let mut bytes = inode.durable.clone();
            for one in &inode.unsynced {
                let whole = rng.random_bool(share);
                play(&mut bytes, one, |_| {
                    if torn { rng.random_bool(share) } else { whole }
                });
            }
            (name, bytes)
        });
        Image {
            files: files.collect(),
            acks: String::from_utf8_lossy(&self.acks).into_owned(),
            vendor: String::from_utf8_lossy(&self.vendor).into_owned(),
            label,
        }
    }
}

fn apply(names: &mut BTreeMap<String, usize>, naming: &Naming) {
    match naming {
        Naming::Set(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        Naming::Remove(name) => {
            names.remove(name);
        }
    }
}

/// Does a write or a truncation, sector by sector, as far as `there` says so.
fn play(bytes: &mut Vec<u8>, one: &Unsynced<'_>, mut there: impl FnMut(u64) -> bool) {
    match *one {
        Unsynced::Truncate(len) => {
            if there(0) {
                bytes.resize(usize::try_from(len).unwrap(), 0);
            }
        }
        Unsynced::Write(offset, data) => {
            let end = offset + data.len() as u64;
            let mut at = offset;
            while at < end {
                let stop = ((at / SECTOR + 1) * SECTOR).min(end);
                if there(at / SECTOR) {
                    let (from, to) = (usize::try_from(at).unwrap(), usize::try_from(stop).unwrap());
                    if bytes.len() < to {
                        bytes.resize(to, 0);
                    }
                    let source = usize::try_from(at - offset).unwrap();
                    bytes[from..to].copy_from_slice(&data[source..source + to - from]);
                }
                at = stop;
            }
        }
    }
}

/// Cuts images at every sync of the trace: nothing, everything and `variants` random parts of what was
/// unsynced just before, and one just after. Calls `check` with each. Returns how many there were.
pub(crate) fn each_image(
    trace: &[u8],
    seed: u64,
    variants: u64,
    check: &mut dyn FnMut(Image),
) -> u64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut disk = Disk::default();
    let mut images = 0;
    let mut syncs = 0u64;
    for step in steps(trace) {
        if !matches!(step.op, b'S' | b'E') {
            disk.take(&step);
            continue;
        }
        syncs += 1;
        let label = |what: &str| format!("seed {seed}, sync {syncs} of `{}`, {what}", step.name);
        check(disk.cut(&mut rng, 0.0, false, label("nothing unsynced")));
        check(disk.cut(&mut rng, 1.0, false, label("everything unsynced")));
        for variant in 0..variants {
            let share = rng.random_range(0.05..0.95);
            let label = label(&format!("variant {variant}, share {share:.2}"));
            check(disk.cut(&mut rng, share, variant % 2 == 0, label));
        }
        disk.take(&step);
        check(disk.cut(&mut rng, 0.0, false, label("just after")));
        images += variants + 3;
    }
    images
}
