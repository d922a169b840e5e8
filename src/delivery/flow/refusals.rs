//! Refusals that say more than that an item is bad: everything is refused alike. Pure.

use super::{Flow, Heard, HeardVerdict};
use crate::vendor::replies::ItemVerdict;

/// Refusals one after the other at a gate.
#[derive(Debug, Default)]
pub(super) struct Row {
    n: u32,
    /// What the vendor said of the last.
    words: String,
    /// An admin wants those refused next to end as they are.
    insisted: bool,
}

impl Row {
    fn taken(&mut self) {
        *self = Self::default();
    }

    fn refused(&mut self, words: &str, alike: bool) {
        if alike && self.words != words {
            self.n = 0;
            words.clone_into(&mut self.words);
        }
        self.n = self.n.saturating_add(1);
    }

    /// After a pause somebody says: go on. What is refused next is then given up, or nothing behind it ever moved.
    pub(super) fn insist(&mut self) {
        self.insisted = true;
    }
}

impl Flow {
    /// Is it the vendor's door that is closed, and not the items that are bad? Then why, in a word and a sentence.
    pub(super) fn all_refused(
        &mut self,
        gate: usize,
        heard: &Heard,
    ) -> Option<(&'static str, String)> {
        let door = self.doors.get_mut(gate)?;
        let each = match &heard.verdict {
            HeardVerdict::All(crate::blueprint::Verdict::Delivered) => {
                door.row.taken();
                return None;
            }
            HeardVerdict::Each(each) => each,
            HeardVerdict::All(_) => return None,
        };
        if each.contains(&ItemVerdict::Delivered) {
            door.row.taken();
            return None;
        }
        let rule = heard.if_all?;
        let words: Option<Vec<&str>> = each
            .iter()
            .map(|verdict| match verdict {
                ItemVerdict::Dead { detail, .. } => Some(detail.as_str()),
                _ => None,
            })
            .collect();
        let words = words.filter(|words| !words.is_empty())?;
        if std::mem::take(&mut door.row.insisted) {
            door.row.n = 0;
            return None;
        }
        let still = door.gate.probes()
            && door
                .gate
                .paused()
                .is_some_and(|why| why.reason == rule.reason);
        let mut full = still;
        for words in &words {
            door.row.refused(words, rule.alike);
            full |= door.row.n >= rule.in_row;
        }
        if !full {
            return None;
        }
        door.row.n = 0;
        let same = if rule.alike { " in the same words" } else { "" };
        let last = words.last().copied().unwrap_or_default();
        Some((
            rule.reason,
            format!(
                "{} or more in a row were refused{same}, so it is likely not they that are wrong but the settings or the \
                 blueprint ({last}). They wait; after a resume those refused next are given up",
                rule.in_row
            ),
        ))
    }
}
