//! What settles change, worked out before anything is written: numbers checked, steps in order.

use std::collections::HashMap;

use super::Committer;
use super::queue::SettleReply;
use crate::journal::feed::FeedState;
use crate::journal::labels::{LabelChange, LabelTally, OfFeed, UNREAD};
use crate::journal::store::{Aside, Whereabouts};
use crate::journal::{JournalError, Outcome, Seq, Settle};

/// Settles worked out but not yet written.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) feeds: HashMap<String, FeedState>,
    /// Where records are after the steps so far, if those changed it.
    parked: HashMap<(String, Seq), bool>,
    pub(super) aside: Vec<Aside>,
    pub(super) labels: LabelChange,
    pub(super) replies: Vec<SettleReply>,
}

impl Committer {
    /// Works out what the settles change. Those that do not add up are answered at once.
    pub(super) fn plan(&mut self, settles: Vec<(Box<Settle>, SettleReply)>) -> Plan {
        let mut plan = Plan::default();
        for (settle, reply) in settles {
            match self.plan_one(&mut plan, *settle) {
                Ok(()) => plan.replies.push(reply),
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
            }
        }
        plan
    }

    fn plan_one(&mut self, plan: &mut Plan, settle: Settle) -> Result<(), JournalError> {
        let (known, end) = {
            let books = self.shared.books.lock();
            let known = match plan.feeds.get(&settle.feed) {
                Some(draft) => Some(draft.clone()),
                None => books.feeds.get(&settle.feed).cloned(),
            };
            (known, books.next)
        };
        let mut draft = known.ok_or_else(|| JournalError::NoFeed(settle.feed.clone()))?;
        let unbalanced = |detail: String| JournalError::Unbalanced {
            feed: settle.feed.clone(),
            detail,
        };
        let mut steps = Vec::new();
        let mut labels = Vec::new();
        let mut again: HashMap<Seq, _> = settle
            .park
            .iter()
            .map(|one| (one.seq, one.clone()))
            .collect();
        for seq in &settle.unpark {
            let at = match plan.parked.get(&(settle.feed.clone(), *seq)) {
                Some(true) => Whereabouts::Parked,
                Some(false) => Whereabouts::Nowhere,
                None => self
                    .store
                    .whereabouts(&settle.feed, *seq)
                    .map_err(|error| JournalError::Store(error.to_string().into()))?,
            };
            let (feed, seq) = (settle.feed.clone(), *seq);
            match (at, again.remove(&seq)) {
                (Whereabouts::Parked, Some(parked)) => steps.push(Aside::Repark(parked)),
                (Whereabouts::Parked, None) => steps.push(Aside::Unpark { feed, seq }),
                // A replay was cancelled while its record was on its way: what became of it counts.
                (Whereabouts::Cancelled { reason, record }, parked) => {
                    draft.move_dead(&reason, -1);
                    if let Some(label) = self.labeller()(seq, &record) {
                        let outcome = Outcome::Dead;
                        let tally = LabelTally {
                            label,
                            outcome,
                            reason,
                        };
                        labels.push((tally, -1));
                    }
                    steps.push(Aside::Unbury { feed, seq });
                    steps.extend(parked.map(Aside::Park));
                }
                (Whereabouts::Nowhere, _) => {
                    return Err(unbalanced(format!("record {seq} is not parked")));
                }
            }
        }
        let parts_before = draft.parts.clone();
        draft.settle(&settle, end).map_err(unbalanced)?;
        {
            let books = self.shared.books.lock();
            for (mut tally, n) in settle.labelled {
                tally.label = books.labels.known_as(&tally.label);
                labels.push((tally, n.cast_signed()));
            }
        }
        for (tally, by) in labels {
            plan.labels.tally(&settle.feed, tally, by);
        }
        if draft.parked == 0 && draft.pos == end {
            self.attribute(plan, &settle.feed);
        }
        for seq in &settle.unpark {
            plan.parked.insert((settle.feed.clone(), *seq), false);
        }
        for parked in &settle.park {
            plan.parked.insert((settle.feed.clone(), parked.seq), true);
        }
        // Those left were not parked before.
        steps.extend(again.into_values().map(Aside::Park));
        steps.extend(settle.dead.into_iter().map(Aside::Bury));
        steps.extend(settle.marks.into_iter().map(|mark| Aside::Mark {
            feed: settle.feed.clone(),
            mark,
        }));
        for (seq, parts) in settle.parts {
            // What is not open is parked: settled records have no parts to tell of.
            if !draft.is_open(seq) {
                let feed = settle.feed.clone();
                steps.push(Aside::Ended { feed, seq, parts });
            }
        }
        if draft.parts != parts_before {
            steps.push(Aside::Parts {
                feed: settle.feed.clone(),
                parts: draft.parts.clone(),
            });
        }
        steps.extend(settle.note.map(|note| Aside::Note {
            feed: settle.feed.clone(),
            note,
        }));
        for step in &mut steps {
            if let Aside::Park(parked) | Aside::Repark(parked) = step {
                parked.feed.clone_from(&settle.feed);
            } else if let Aside::Bury(letter) = step {
                letter.feed.clone_from(&settle.feed);
            }
        }
        plan.aside.append(&mut steps);
        plan.feeds.insert(settle.feed, draft);
        Ok(())
    }

    /// The feed has nothing open: what it lost unread is known by label now.
    fn attribute(&self, plan: &mut Plan, feed: &str) {
        let books = self.shared.books.lock();
        let known = books.labels.feeds.get(feed);
        let known = known.is_some_and(OfFeed::has_unread);
        let new = |(of, tally): &(String, LabelTally)| of == feed && tally.label == UNREAD;
        if !known && !plan.labels.tallies.keys().any(new) {
            return;
        }
        let mut draft = books.labels.of_feed(feed);
        for ((of, tally), by) in &plan.labels.tallies {
            if of == feed {
                draft.add(tally, *by);
            }
        }
        for (tally, by) in books.labels.attribute(&draft) {
            plan.labels.tally(feed, tally, by);
        }
    }
}

impl FeedState {
    /// `n` records leave the dead letters for the parked (negative) or come back (positive).
    pub(super) fn move_dead(&mut self, reason: &str, n: i64) {
        let tally = self
            .tallies
            .entry((Outcome::Dead, reason.to_owned()))
            .or_default();
        *tally = tally.saturating_add_signed(n);
        self.parked = self.parked.saturating_add_signed(-n);
    }
}
