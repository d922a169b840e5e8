//! Readers of replies that say more than a status: partial success, items refused one by one, what is left of a
//! rate limit. Pure.
//!
//! A blueprint names one by `replies: name`. Where a reader says [`Reads::Common`] (and where there is none) the
//! blueprint's `responses` decide, then the rules common to all vendors.

use std::time::Duration;

use crate::blueprint::Verdict;

/// A reply, and the request it answers, as far as readers look at them.
pub struct ReplyFacts<'a> {
    /// HTTP status.
    pub status: u16,
    /// A header of the reply by its name (any case); none when it is absent or not text.
    pub header: &'a dyn Fn(&str) -> Option<String>,
    /// The reply's body, capped at [`super::http::ANSWER_BYTES_MAX`].
    pub body: &'a [u8],
    /// How many items the request carried.
    pub items: usize,
    /// The item at an index below `items`, as JSON; empty beyond.
    pub item: &'a dyn Fn(usize) -> &'a [u8],
}

impl std::fmt::Debug for ReplyFacts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplyFacts")
            .field("status", &self.status)
            .field("items", &self.items)
            .finish_non_exhaustive()
    }
}

/// What a reader made of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What becomes of the items.
    pub verdict: Reads,
    /// What the vendor says is left of its rate limit.
    pub room: Option<Room>,
    /// A sentence for people, shown instead of the body (which key is wrong, where to allow an address).
    pub note: Option<String>,
    /// Were every item refused like this, none of them would be at fault (a wrong app id): after many such refusals in a
    /// row, with nothing taken in between, the request is paused for this reason instead.
    pub if_all: Option<&'static str>,
}

impl Reading {
    /// Leaves the reply to the common rules.
    #[must_use]
    pub const fn common() -> Self {
        Self::of(Reads::Common)
    }

    /// This verdict, and nothing else to say.
    #[must_use]
    pub const fn of(verdict: Reads) -> Self {
        Self {
            verdict,
            room: None,
            note: None,
            if_all: None,
        }
    }
}

/// What becomes of the items of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// As the blueprint's `responses` say, then as the common rules say.
    Common,
    /// All of them alike.
    All(Verdict),
    /// Each its own, in the order of the request. With fewer or more verdicts than items the reply is not
    /// understood, and is read as [`Reads::Common`].
    Each(Vec<ItemVerdict>),
}

/// What becomes of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemVerdict {
    /// The vendor took it.
    Delivered,
    /// Nothing is to be done with it; the reason is a metric label.
    Skip(&'static str),
    /// The vendor will never take it.
    Dead {
        /// Short and of a closed set: a metric label.
        reason: &'static str,
        /// What the vendor said of it.
        detail: String,
    },
    /// The vendor does not know whom it is about (yet): as the blueprint's `requeue` says.
    Missing,
    /// At once again, in a new batch.
    Again,
    /// At once again, without this field of the item (who asks for it sees that the item still has it).
    AgainWithout(&'static str),
}

/// What the vendor's headers say of its rate limit: adopted for the request's own bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Requests in a whole window.
    pub limit: u64,
    /// Requests left in this one.
    pub remaining: u64,
    /// Time until the window begins anew.
    pub reset: Duration,
}

/// Reads a reply.
pub type Reader = fn(&ReplyFacts<'_>) -> Reading;

/// The reader a blueprint names by `replies`; none when there is no such reader.
#[must_use]
pub fn reader(name: &str) -> Option<Reader> {
    Some(match name {
        "brevo_batch" => super::brevo::replies::batch,
        "brevo_contact" => super::brevo::replies::contact,
        "brevo_event" => super::brevo::replies::single,
        "heap" => super::heap::replies::any,
        "odp" => super::odp::replies::any,
        "pendo_metadata" => super::pendo::replies::metadata,
        "pendo_track" => super::pendo::replies::track,
        _ => return None,
    })
}
