//! What readers of replies share: looking into a JSON body, cutting what a vendor said to a readable length.
//! Knows no vendor.

use std::time::Duration;

use serde_json::Value;

use super::replies::{ItemVerdict, Reading, Reads, ReplyFacts};
use crate::blueprint::Verdict;

/// Longest sentence of a vendor that is kept, in characters.
const SAID_CHARS_MAX: usize = 500;

/// The body as JSON; `Null` when it is none (an empty body, a proxy's page of HTML).
pub(super) fn json(facts: &ReplyFacts<'_>) -> Value {
    serde_json::from_slice(facts.body).unwrap_or(Value::Null)
}

/// An item as JSON.
pub(super) fn item(facts: &ReplyFacts<'_>, at: usize) -> Value {
    serde_json::from_slice((facts.item)(at)).unwrap_or(Value::Null)
}

/// A field of a body that should be text; empty when it is not there.
pub(super) fn text<'a>(body: &'a Value, key: &str) -> &'a str {
    body.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// What the vendor said, for a detail or a note.
pub(super) fn said(words: &str) -> String {
    if words.chars().nth(SAID_CHARS_MAX).is_none() {
        return words.to_owned();
    }
    let mut cut: String = words.chars().take(SAID_CHARS_MAX).collect();
    cut.push('…');
    cut
}

/// The body as it is, for vendors that answer in free text.
pub(super) fn said_all(facts: &ReplyFacts<'_>) -> String {
    said(String::from_utf8_lossy(facts.body).trim())
}

/// A number of the body, when it is a whole one.
pub(super) fn count(body: &Value, key: &str) -> Option<usize> {
    usize::try_from(body.get(key)?.as_u64()?).ok()
}

/// A pause with words for the operator.
pub(super) fn pause(reason: &'static str, note: impl Into<String>) -> Reading {
    Reading {
        note: Some(note.into()),
        ..Reading::of(Reads::All(Verdict::Pause { reason }))
    }
}

/// As [`pause`], looked at again only after so long.
pub(super) fn pause_long(
    reason: &'static str,
    look_after: Duration,
    note: impl Into<String>,
) -> Reading {
    Reading {
        look_after: Some(look_after),
        ..pause(reason, note)
    }
}

/// A batch is halved to find its culprit; an item alone is dead.
pub(super) fn halve_or_dead(
    facts: &ReplyFacts<'_>,
    reason: &'static str,
    detail: impl FnOnce() -> String,
) -> Reading {
    Reading::of(if facts.items > 1 {
        Reads::All(Verdict::Bisect)
    } else {
        Reads::Each(vec![ItemVerdict::Dead {
            reason,
            detail: detail(),
        }])
    })
}

#[cfg(test)]
pub(super) mod testing {
    //! Replies for the tests of readers.

    use serde_json::Value;

    use crate::vendor::replies::{Reader, Reading, ReplyFacts};

    /// What `reader` makes of a reply to a request with these items.
    pub(in crate::vendor) fn read(
        reader: Reader,
        status: u16,
        headers: &[(&str, &str)],
        body: &str,
        items: &[Value],
    ) -> Reading {
        let items: Vec<Vec<u8>> = items.iter().map(|item| item.to_string().into()).collect();
        let header = |name: &str| {
            headers
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map(|(_, value)| (*value).to_owned())
        };
        reader(&ReplyFacts {
            status,
            header: &header,
            body: body.as_bytes(),
            items: items.len(),
            item: &|at| items.get(at).map_or(&[], Vec::as_slice),
        })
    }
}
