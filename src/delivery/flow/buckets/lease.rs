//! How much may be sent before it is written down again. Pure.
//!
//! A vendor's limit holds through a kill, too. So the journal keeps a note that counts as sent what was sent *and* a
//! lease on top; no more than the lease goes out before a newer note is stored. Whenever the process ends, what the
//! note says is no less than what was sent.

/// So much is never sent: the lease of a request whose windows are all short.
const ENDLESS: u64 = u64::MAX / 4;

/// Requests, and items in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) struct Amount {
    pub requests: u64,
    pub items: u64,
}

/// What may still go out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    size: Amount,
    /// Left of the note the journal holds.
    left: Amount,
    /// Sent since the note that is being stored.
    since: Option<Amount>,
}

impl Lease {
    /// Nothing goes out before a first note is stored.
    pub(super) fn new(size: Option<Amount>) -> Self {
        let endless = Amount {
            requests: ENDLESS,
            items: ENDLESS,
        };
        Self {
            size: size.unwrap_or(endless),
            left: Amount::default(),
            since: None,
        }
    }

    /// What a note counts on top.
    pub(super) fn size(&self) -> Amount {
        match self.size.requests {
            ENDLESS => Amount::default(),
            _ => self.size,
        }
    }

    /// May a request with so many items go out? One larger than the whole lease goes when nothing else has.
    pub(super) fn covers(&self, items: u64) -> bool {
        self.left.requests > 0 && (items <= self.left.items || self.left == self.size)
    }

    pub(super) fn sent(&mut self, items: u64) {
        self.left.requests = self.left.requests.saturating_sub(1);
        self.left.items = self.left.items.saturating_sub(items);
        if let Some(since) = &mut self.since {
            since.requests += 1;
            since.items += items;
        }
    }

    /// Is it time for a new note?
    pub(super) fn wants(&self) -> bool {
        let low =
            self.left.requests <= self.size.requests / 2 || self.left.items <= self.size.items / 2;
        low && self.since.is_none()
    }

    /// A note was taken.
    pub(super) fn noted(&mut self) {
        self.since = Some(Amount::default());
    }

    /// It is stored.
    pub(super) fn stored(&mut self) {
        if let Some(since) = self.since.take() {
            self.left = Amount {
                requests: self.size.requests.saturating_sub(since.requests),
                items: self.size.items.saturating_sub(since.items),
            };
        }
    }
}
