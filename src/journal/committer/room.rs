//! When there is no room: appends are refused, settles tried without them, room looked for again.

use std::sync::Arc;
use std::time::Instant;

use super::queue::SettleReply;
use super::{Committer, PROBE_EVERY, rebuild};
use crate::journal::JournalError;
use crate::journal::store::{Change, StoreError};

/// Why appends are refused for now.
#[derive(Debug)]
pub(super) struct Shortage {
    /// The engine said so, not only the free space.
    by_store: bool,
    look_again: Instant,
}

impl Committer {
    /// After a commit that found no room: take back what it did in memory, and see that it is so on disk.
    pub(super) fn ran_full(&mut self, reason: &Arc<str>, change: &Change) {
        tracing::warn!(%reason, "journal is out of space; appends are refused until there is room");
        self.short(true, format!("the disk is full: {reason}"));
        if !change.seen.is_empty() && !self.dedup.undo() {
            let options = &self.shared.options;
            match rebuild(self.store.as_mut(), options, self.clock.now_ms()) {
                Ok(dedup) => self.dedup = dedup,
                Err(error) => return self.fail(&error.to_string().into()),
            }
        }
        let expected = self.shared.books.lock().next;
        match self.store.load() {
            Ok(loaded) if loaded.next == expected => {}
            Ok(loaded) => {
                let reason = format!(
                    "after running out of space the store ends at record {}, not {expected}",
                    loaded.next
                );
                self.fail(&reason.into());
            }
            Err(error) => self.fail(&error.to_string().into()),
        }
    }

    /// The settles of a commit that found no room, without its appends.
    pub(super) fn settle_alone(
        &mut self,
        mut change: Change,
        replies: Vec<SettleReply>,
        reason: &Arc<str>,
    ) {
        change.blocks.clear();
        change.seen.clear();
        change.labels.counts.clear();
        change.labels.blocks.clear();
        change.duplicates = None;
        let result = match self.failure() {
            Some(reason) => Err(StoreError::Failed(reason)),
            None => {
                // Moving the log into the main file may be all the room a settle needs.
                let _ = self.tidy(true);
                self.write(&change)
            }
        };
        let result = match result {
            Ok(()) => {
                self.publish(&change, Vec::new());
                Ok(())
            }
            Err(StoreError::Full(_)) => Err(JournalError::Store(Arc::clone(reason))),
            Err(StoreError::Failed(reason)) => {
                self.fail(&reason);
                Err(JournalError::Store(reason))
            }
        };
        for reply in replies {
            let _ = reply.send(result.clone());
        }
    }

    /// Whether appends may be tried.
    pub(super) fn room(&mut self) -> bool {
        let minimum = self.shared.options.free_bytes_min;
        let free = self.store.free_bytes();
        let enough = free.is_none_or(|free| free >= minimum);
        match &self.shortage {
            None if enough => true,
            None => {
                let free = free.unwrap_or_default();
                tracing::warn!(free, minimum, "disk is nearly full; appends are refused");
                self.short(
                    false,
                    format!("the disk is nearly full: {free} bytes are free, {minimum} are needed"),
                );
                false
            }
            Some(_) if !enough => false,
            Some(shortage) if !shortage.by_store => {
                self.recovered();
                true
            }
            Some(shortage) if Instant::now() < shortage.look_again => false,
            Some(_) => match self.store.probe() {
                Ok(()) => {
                    self.recovered();
                    true
                }
                Err(StoreError::Full(_)) => {
                    if let Some(shortage) = &mut self.shortage {
                        shortage.look_again = Instant::now() + PROBE_EVERY;
                    }
                    false
                }
                Err(StoreError::Failed(reason)) => {
                    self.fail(&reason);
                    false
                }
            },
        }
    }

    fn short(&mut self, by_store: bool, reason: String) {
        self.shortage = Some(Shortage {
            by_store,
            look_again: Instant::now() + PROBE_EVERY,
        });
        let mut health = self.shared.health.lock();
        health.writable = false;
        health.reason = Some(reason);
    }

    fn recovered(&mut self) {
        tracing::info!("journal has room again; appends are taken");
        self.shortage = None;
        let mut health = self.shared.health.lock();
        health.writable = true;
        health.reason = None;
    }
}
