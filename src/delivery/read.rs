//! A vendor's answer to what is heard of a job: by the reader the blueprint names, its `responses`, the common rules.

use super::flow::{Heard, HeardVerdict};
use crate::blueprint::{Plan, Reply, Verdict};
use crate::vendor::http::{Answer, SendError, SendErrorKind};
use crate::vendor::replies::{self, ItemVerdict, Reading, Reads, ReplyFacts};

/// Reads an answer. `sent` are the items as they were sent; with `combined`, which of the job's `items` each of them
/// stands for.
pub(super) fn answer(
    plan: &Plan,
    request: usize,
    answer: &Answer,
    sent: &[&[u8]],
    combined: Option<&[Vec<usize>]>,
    items: usize,
) -> Heard {
    let reader = plan
        .requests()
        .get(request)
        .and_then(|request| request.replies.as_deref())
        .and_then(reader_named);
    let reading = reader.map_or_else(Reading::common, |read| {
        read(&ReplyFacts {
            status: answer.status,
            header: &|name| answer.header(name),
            body: &answer.body,
            items: sent.len(),
            item: &|index| sent.get(index).copied().unwrap_or_default(),
        })
    });
    let common = || {
        HeardVerdict::All(plan.verdict(
            request,
            &Reply {
                status: answer.status,
                retry_after: answer.retry_after,
                body: &answer.body,
            },
        ))
    };
    let verdict = match reading.verdict {
        Reads::All(verdict) => HeardVerdict::All(verdict),
        Reads::Each(verdicts) if verdicts.len() == sent.len() => {
            HeardVerdict::Each(spread(verdicts, combined, items))
        }
        Reads::Common | Reads::Each(_) => common(),
    };
    Heard {
        verdict,
        status: Some(answer.status),
        answer: String::from_utf8_lossy(&answer.body).into_owned(),
        note: reading.note,
        if_all: reading.if_all,
        look_after: reading.look_after,
        slow: reading.slow || answer.status == 429,
        look_up: reading.look_up,
        room: reading.room,
    }
}

#[cfg(not(test))]
use replies::reader as reader_named;

/// As [`replies::reader`], and one for tests that does as the body says.
#[cfg(test)]
fn reader_named(name: &str) -> Option<replies::Reader> {
    match name {
        "by_body" => Some(super::tests::requests::by_body),
        name => replies::reader(name),
    }
}

/// A request without an answer: the vendor may have it or not, the same bytes go out again. An address we may not
/// reach does not change by trying.
pub(super) fn silence(error: &SendError) -> Heard {
    let verdict = match error.kind {
        SendErrorKind::Blocked => Verdict::Pause { reason: "blocked" },
        SendErrorKind::Timeout
        | SendErrorKind::Connect
        | SendErrorKind::Dns
        | SendErrorKind::Tls
        | SendErrorKind::Reset
        | SendErrorKind::Malformed => Verdict::Retry { after: None },
    };
    Heard {
        verdict: HeardVerdict::All(verdict),
        status: None,
        answer: error.message.clone(),
        note: None,
        if_all: None,
        look_after: None,
        slow: false,
        look_up: false,
        room: None,
    }
}

/// What was said of an object holds for every item it stands for.
fn spread(
    verdicts: Vec<ItemVerdict>,
    combined: Option<&[Vec<usize>]>,
    items: usize,
) -> Vec<ItemVerdict> {
    let Some(combined) = combined else {
        return verdicts;
    };
    let mut spread = vec![ItemVerdict::Again; items];
    for (verdict, of) in verdicts.into_iter().zip(combined) {
        for index in of {
            if let Some(place) = spread.get_mut(*index) {
                place.clone_from(&verdict);
            }
        }
    }
    spread
}

/// The word of a verdict in the log.
pub(super) fn word(verdict: &HeardVerdict) -> &'static str {
    match verdict {
        HeardVerdict::All(Verdict::Delivered) => "delivered",
        HeardVerdict::All(Verdict::Retry { .. }) => "retry",
        HeardVerdict::All(Verdict::Bisect | Verdict::Split) => "bisect",
        HeardVerdict::All(Verdict::Reject) => "reject",
        HeardVerdict::All(Verdict::Pause { .. }) => "pause",
        HeardVerdict::Each(each) => match each.split_first() {
            Some((first, rest)) if rest.iter().all(|other| one(other) == one(first)) => one(first),
            _ => "partial",
        },
    }
}

fn one(verdict: &ItemVerdict) -> &'static str {
    match verdict {
        ItemVerdict::Delivered => "delivered",
        ItemVerdict::Skip(_) | ItemVerdict::OptedOut { .. } => "skipped",
        ItemVerdict::Dead { .. } => "reject",
        ItemVerdict::Missing => "missing",
        ItemVerdict::Again | ItemVerdict::AgainWithout(_) | ItemVerdict::Wait { .. } => "retry",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_an_object_holds_for_all_its_items() {
        let verdicts = vec![ItemVerdict::Delivered, ItemVerdict::Missing];
        let spread = spread(verdicts, Some(&[vec![0, 2], vec![1]]), 3);
        assert_eq!(
            spread,
            [
                ItemVerdict::Delivered,
                ItemVerdict::Missing,
                ItemVerdict::Delivered
            ]
        );
        assert_eq!(word(&HeardVerdict::Each(spread)), "partial");
        assert_eq!(
            word(&HeardVerdict::Each(vec![ItemVerdict::Missing; 2])),
            "missing"
        );
    }
}
