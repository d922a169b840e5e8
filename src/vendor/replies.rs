//! Readers of replies that say more than a status: partial success, items refused one by one, what is left of a
//! rate limit. Pure.
//!
//! A blueprint names one by `replies: name`. Where a reader says [`Reads::Common`] (and where there is none) the
//! blueprint's `responses` decide, then the rules common to all vendors.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::blueprint::{Request, Verdict};

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
    /// Were every item refused like this, none of them would be at fault (a wrong app id).
    pub if_all: Option<IfAll>,
    /// With a pause: how long until a request looks whether it is over; none = as after any other.
    pub look_after: Option<Duration>,
    /// A rate was broken, whatever the status (a 429 says so by itself): half as fast for a while.
    pub slow: bool,
    /// The vendor may not have a field that was written: what it has is looked up, and what it has not is left out,
    /// before the verdict counts. For requests with `fields` in the blueprint.
    pub look_up: bool,
}

/// After how many refusals in a row, with nothing taken in between, a request is paused instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IfAll {
    /// Why it is then paused: a metric label.
    pub reason: &'static str,
    /// So many items.
    pub in_row: u32,
    /// Only those count that were refused in the same words.
    pub alike: bool,
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
            look_after: None,
            slow: false,
            look_up: false,
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
    /// Again after a while, the others of its lane behind it. Other items go on meanwhile.
    Wait {
        /// So long, at least.
        after: Duration,
        /// At most so often; then it is dead for `reason`.
        times: u32,
        /// Short and of a closed set: a metric label.
        reason: &'static str,
    },
    /// The person (the item's lane) wants nothing: it is skipped as `opted_out`, and so is all that is about that person
    /// for so long, also after a restart. Only readers named by [`opts_out`] may say so.
    OptedOut {
        /// For how long.
        lasts: Duration,
    },
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

/// How to find out which fields a vendor has, for requests it refuses as a whole when they write another one.
#[derive(Debug)]
pub struct Fields {
    /// The request that lists them, for a request that writes some; none when any may be written.
    pub ask: fn(&Request) -> Option<Request>,
    /// The fields there are, in small letters, from the body of its answer.
    pub read: fn(&Request, &[u8]) -> Option<BTreeSet<String>>,
    /// Where an item has its own.
    pub inside: &'static str,
}

/// How to look up the fields of requests whose replies this reader reads.
#[must_use]
pub fn fields(reader: &str) -> Option<&'static Fields> {
    (reader == "pendo_metadata").then_some(&super::pendo::fields::FIELDS)
}

/// May this reader say [`ItemVerdict::OptedOut`]? Only then is it looked up before sending who did.
#[must_use]
pub fn opts_out(reader: &str) -> bool {
    matches!(reader, "pendo_metadata" | "pendo_track")
}

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
