//! Heap's replies. Heap never says which item of a bulk it refuses, nor why: a refused bulk is halved until the
//! culprit is alone (developers.heap.io: track, bulk-track, bulk-add-user-properties).

use std::collections::HashMap;
use std::time::Duration;

use crate::blueprint::Verdict;
use crate::vendor::replies::{IfAll, ItemVerdict, Reading, Reads, ReplyFacts};
use crate::vendor::reply_body::{halve_or_dead, item, pause, text};

/// Heap counts requests of one identity in windows of 30 s, and says nothing of when to come back.
const SLOW: Duration = Duration::from_secs(30);

/// `POST /api/track` and `POST /api/add_user_properties`, single and bulk.
pub fn any(facts: &ReplyFacts<'_>) -> Reading {
    match facts.status {
        301 | 302 | 303 | 307 | 308 => pause(
            "wrong_region",
            "Heap sends us elsewhere: the app_id belongs to the other data region (config `region`)",
        ),
        400 => Reading {
            if_all: Some(IfAll {
                reason: "bad_app_id_or_region",
                in_row: 10,
                alike: false,
            }),
            ..halve_or_dead(facts, "refused", || {
                "Heap refuses it without saying why; if it refuses every event so, check app_id and region"
                    .to_owned()
            })
        },
        404 | 405 => pause(
            "not_found",
            "there is no Heap at this address: check base_url",
        ),
        429 => limited(facts),
        _ => Reading::common(),
    }
}

/// Heap counts by app and by identity, and does not say which of them is over. An identity with most of the items is
/// set aside for its window, and the others go again at once; where none stands out the whole app waits.
fn limited(facts: &ReplyFacts<'_>) -> Reading {
    let all = || Reading::of(Reads::All(Verdict::Retry { after: Some(SLOW) }));
    if facts.items < 2 {
        return all();
    }
    let whom: Vec<String> = (0..facts.items)
        .map(|at| text(&item(facts, at), "identity").to_owned())
        .collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for identity in &whom {
        *counts.entry(identity.as_str()).or_default() += 1;
    }
    let Some((busiest, _)) = counts.iter().find(|(_, n)| **n * 2 > facts.items) else {
        return all();
    };
    let each = whom
        .iter()
        .map(|identity| match identity == busiest {
            true => ItemVerdict::Wait {
                after: SLOW,
                times: u32::MAX,
                reason: "rate_limited",
            },
            false => ItemVerdict::Again,
        })
        .collect();
    Reading::of(Reads::Each(each))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::vendor::reply_body::testing::read;

    fn say(status: u16, items: usize) -> Reading {
        let items: Vec<Value> = vec![json!({"identity": "u"}); items];
        read(any, status, &[], "{}", &items)
    }

    #[test]
    fn any_2xx_is_an_acknowledgement_and_trouble_is_the_common_kind() {
        for status in [200, 204, 408, 413, 500, 503, 401, 403] {
            assert_eq!(say(status, 3), Reading::common(), "{status}");
        }
    }

    #[test]
    fn a_redirect_is_the_wrong_region_and_never_a_delivery() {
        for status in [301, 302, 307, 308] {
            let reading = say(status, 1);
            let reason = "wrong_region";
            assert_eq!(reading.verdict, Reads::All(Verdict::Pause { reason }));
            assert!(reading.note.unwrap().contains("region"));
        }
        for status in [404, 405] {
            let reason = "not_found";
            assert_eq!(
                say(status, 1).verdict,
                Reads::All(Verdict::Pause { reason })
            );
        }
    }

    #[test]
    fn a_refused_bulk_is_halved_and_the_culprit_dies_alone() {
        assert_eq!(say(400, 500).verdict, Reads::All(Verdict::Bisect));
        assert!(matches!(
            say(400, 1).verdict,
            Reads::Each(each) if matches!(each[..], [ItemVerdict::Dead { reason: "refused", .. }])
        ));
        let if_all = say(400, 1).if_all.unwrap();
        assert_eq!(if_all.reason, "bad_app_id_or_region");
    }

    #[test]
    fn a_429_sets_whoever_stands_out_aside_and_else_everybody_waits() {
        let after = Some(Duration::from_secs(30));
        let say = |of: &[&str]| {
            let items: Vec<Value> = of.iter().map(|id| json!({"identity": id})).collect();
            read(any, 429, &[], "{}", &items).verdict
        };
        let all = Reads::All(Verdict::Retry { after });
        assert_eq!(say(&["a"]), all);
        assert_eq!(say(&["a", "b"]), all);
        assert_eq!(say(&["a", "b", "a", "c"]), all, "half is not most");
        let Reads::Each(each) = say(&["a", "b", "a", "a"]) else {
            panic!("one stands out");
        };
        assert!(matches!(
            each[..],
            [
                ItemVerdict::Wait { after: SLOW, .. },
                ItemVerdict::Again,
                ItemVerdict::Wait { .. },
                ItemVerdict::Wait { .. },
            ]
        ));
    }
}
