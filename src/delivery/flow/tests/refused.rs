//! Refusals that are more than a yes or no: too much at once, not now, everybody alike, nothing for this person.

use super::*;
use crate::vendor::replies::IfAll;

const HOUR: Millis = 3_600_000;

/// One request with lanes.
fn flow_with(change: impl FnOnce(&mut FlowOptions)) -> Flow {
    let mut options = options();
    change(&mut options);
    Flow::new(options)
}

fn of(request: usize, seq: Seq, lane: u64) -> Part {
    let mut part = item(request, seq, 0);
    if let PartResult::Item { keys, .. } = &mut part.result {
        keys.lane = Some(lane);
    }
    part
}

/// Events 0, 1, … of these people.
fn people(flow: &mut Flow, lanes: &[u64], now: Millis) {
    let events = lanes.iter().enumerate().map(|(seq, lane)| {
        let seq = Seq::try_from(seq).unwrap();
        arrival(seq, vec![of(0, seq, *lane)])
    });
    flow.absorb(arrivals(events.collect()), now);
}

fn each(verdicts: Vec<ItemVerdict>) -> Heard {
    Heard {
        verdict: HeardVerdict::Each(verdicts),
        ..heard(Verdict::Delivered)
    }
}

fn dead_of(words: &str) -> ItemVerdict {
    ItemVerdict::Dead {
        reason: "invalid_event",
        detail: words.to_owned(),
    }
}

/// Answers jobs until nothing is left to send; the numbers sent, request by request.
fn run(
    flow: &mut Flow,
    now: &mut Millis,
    mut answer: impl FnMut(&[Seq]) -> Heard,
) -> Vec<Vec<Seq>> {
    let mut sent = Vec::new();
    while sent.len() < 200 {
        if let Some(job) = flow.next_job(*now) {
            let seqs = seqs_of(&job);
            let heard = answer(&seqs);
            sent.push(seqs);
            flow.heard(job, heard, *now, 0.0);
        } else if let Some(wakes) = flow.wakes_ms(*now) {
            *now = wakes.max(*now + 1);
        } else {
            break;
        }
    }
    sent
}

#[test]
fn too_much_at_once_is_halved_and_nobody_is_given_up_unsent() {
    let mut flow = Flow::new(options());
    people(&mut flow, &[1, 2, 1, 3, 1, 2, 9, 1], 0);
    let mut now = 100;
    let taken = std::cell::RefCell::new(Vec::new());
    let sent = run(&mut flow, &mut now, |seqs| {
        // Number 6 is too large even alone.
        if seqs.len() > 3 || seqs.contains(&6) {
            return heard(Verdict::Split);
        }
        taken.borrow_mut().extend_from_slice(seqs);
        heard(Verdict::Delivered)
    });
    let settled = flow.take_settle(Millis::MAX, false).unwrap();
    assert_eq!(
        outcomes(&settled),
        [("delivered", "", 7), ("dead", "rejected", 1)]
    );
    assert_eq!(settled.settle.dead[0].seq, 6);
    assert_eq!(taken.into_inner(), [0, 1, 2, 3, 4, 5, 7], "in order");
    assert_eq!(sent[0].len(), 8);
    assert!(sent.len() <= 12, "{sent:?}");
}

#[test]
fn in_the_middle_of_a_search_too_much_at_once_finds_everybody() {
    let mut flow = Flow::new(options());
    people(&mut flow, &[1, 2, 3, 4, 5, 6, 7, 8], 0);
    let mut now = 100;
    let mut answers = [Verdict::Bisect, Verdict::Split].into_iter();
    run(&mut flow, &mut now, |seqs| {
        heard(answers.next().unwrap_or(match seqs.contains(&7) {
            true => Verdict::Bisect,
            false => Verdict::Delivered,
        }))
    });
    let settled = flow.take_settle(Millis::MAX, false).unwrap();
    assert_eq!(
        outcomes(&settled),
        [("delivered", "", 7), ("dead", "rejected", 1)]
    );
    assert_eq!(settled.settle.dead[0].seq, 7);
}

#[test]
fn who_has_to_wait_waits_alone_in_order_and_only_so_often() {
    let wait = ItemVerdict::Wait {
        after: Duration::from_secs(2),
        times: 5,
        reason: "in_process",
    };
    // Batches of one: 0 and 2 are of one contact, which stays in process.
    let mut flow = flow_with(|options| options.requests[0].limits.items_max = 1);
    people(&mut flow, &[7, 8, 7, 9], 0);
    let mut now = 100;
    let mut times = BTreeMap::new();
    let sent = run(&mut flow, &mut now, |seqs| {
        if seqs == [0] {
            *times.entry(0).or_insert(0) += 1;
            return each(vec![wait.clone()]);
        }
        heard(Verdict::Delivered)
    });
    assert_eq!(times[&0], 6, "once, and five times again");
    assert_eq!(sent[..3], [vec![0], vec![1], vec![3]], "nobody else waits");
    assert_eq!(sent.last(), Some(&vec![2]), "behind the one before it");
    assert!(now >= 100 + 5 * 2_000);
    let settled = flow.take_settle(Millis::MAX, false).unwrap();
    assert_eq!(
        outcomes(&settled),
        [("delivered", "", 3), ("dead", "in_process", 1)]
    );
}

#[test]
fn one_identity_that_fills_a_batch_is_set_aside_and_the_rest_goes_at_once() {
    let mut flow = Flow::new(options());
    people(&mut flow, &[5, 1, 5, 2, 5, 5, 3, 5], 0);
    let wait = ItemVerdict::Wait {
        after: Duration::from_secs(30),
        times: u32::MAX,
        reason: "rate_limited",
    };
    let job = flow.next_job(100).unwrap();
    let verdicts = [0, 1, 0, 1, 0, 0, 1, 0].map(|rest| match rest {
        1 => ItemVerdict::Again,
        _ => wait.clone(),
    });
    flow.heard(job, each(verdicts.to_vec()), 100, 0.0);
    let rest = flow.next_job(100).unwrap();
    assert_eq!(seqs_of(&rest), [1, 3, 6]);
    flow.heard(rest, heard(Verdict::Delivered), 100, 0.0);
    // The next of the same identity waits behind those set aside.
    flow.absorb(arrivals(vec![arrival(8, vec![of(0, 8, 5)])]), 200);
    assert!(flow.next_job(30_099).is_none());
    let wakes = flow.wakes_ms(30_099).unwrap();
    let aside = flow.next_job(wakes).unwrap();
    assert_eq!(seqs_of(&aside), [0, 2, 4, 5, 7]);
    flow.heard(aside, heard(Verdict::Delivered), 31_000, 0.0);
    assert!(flow.next_job(31_100).is_none(), "in company, if any comes");
    let last = flow.next_job(31_200).unwrap();
    assert_eq!(seqs_of(&last), [8]);
    flow.heard(last, heard(Verdict::Delivered), 31_200, 0.0);
    assert_eq!(
        outcomes(&flow.take_settle(Millis::MAX, false).unwrap()),
        [("delivered", "", 9)]
    );
}

#[test]
fn five_refused_in_the_same_words_pause_and_a_resume_gives_the_next_up() {
    const ALIKE: IfAll = IfAll {
        reason: "every_event_refused",
        in_row: 5,
        alike: true,
    };
    let refused = |words: &[&str]| Heard {
        if_all: Some(ALIKE),
        ..each(words.iter().map(|words| dead_of(words)).collect())
    };
    let mut flow = flow_with(|options| options.requests[0].limits.items_max = 2);
    people(&mut flow, &[0; 14].map(|_| 1), 0);
    // Two alike, two others, one taken in between, then four alike: not enough yet.
    let answers = [
        refused(&["a", "a"]),
        refused(&["a", "b"]),
        each(vec![ItemVerdict::Delivered, dead_of("b")]),
        refused(&["b", "b"]),
        refused(&["b", "b"]),
    ];
    let mut now = 100;
    for (at, answer) in answers.into_iter().enumerate() {
        let job = flow.next_job(now).unwrap();
        flow.heard(job, answer, now, 0.0);
        assert!(flow.requests(now)[0].paused.is_none(), "after {at}");
    }
    let job = flow.next_job(now).unwrap();
    assert_eq!(seqs_of(&job), [10, 11]);
    flow.heard(job, refused(&["b", "b"]), now, 0.0);
    let paused = flow.requests(now)[0].paused.clone().unwrap();
    assert_eq!(paused.reason, "every_event_refused");
    assert!(paused.detail.contains("(b)"), "{}", paused.detail);
    let dead = |flow: &mut Flow| {
        let settled = flow.take_settle(Millis::MAX, false);
        settled.map_or(0, |settled| settled.settle.dead.len())
    };
    assert_eq!(dead(&mut flow), 9, "those refused last are kept");
    // The probe is refused like them: nobody dies of it.
    now = flow.wakes_ms(now).unwrap();
    let job = flow.next_job(now).unwrap();
    flow.heard(job, refused(&["b", "b"]), now, 0.0);
    assert!(flow.requests(now)[0].paused.is_some() && dead(&mut flow) == 0);
    // Somebody says they are bad indeed.
    flow.resume(now);
    let job = flow.next_job(now).unwrap();
    flow.heard(job, refused(&["b", "b"]), now, 0.0);
    assert!(flow.requests(now)[0].paused.is_none());
    assert_eq!(dead(&mut flow), 2);
    let job = flow.next_job(now).unwrap();
    flow.heard(job, heard(Verdict::Delivered), now, 0.0);
    assert_eq!(flow.unsettled(), 0);
}

#[test]
fn who_wants_nothing_gets_nothing_for_a_day() {
    let wary = |options: &mut FlowOptions| {
        options.requests[0].limits.items_max = 1;
        options
            .requests
            .iter_mut()
            .for_each(|rules| rules.opts_out = true);
    };
    let mut flow = flow_with(wary);
    people(&mut flow, &[3, 4, 3], 0);
    let mut now = 100;
    let sent = run(&mut flow, &mut now, |seqs| match seqs {
        [0] => each(vec![ItemVerdict::OptedOut {
            lasts: Duration::from_secs(24 * 3_600),
        }]),
        _ => heard(Verdict::Delivered),
    });
    assert_eq!(sent, [vec![0], vec![1]], "the second of the visitor stays");
    let settled = flow.take_settle(Millis::MAX, false).unwrap();
    assert_eq!(
        outcomes(&settled),
        [("delivered", "", 1), ("skipped", "opted_out", 2)]
    );
    assert_eq!(settled.skipped["opted_out"].len(), 2);
    // By any other request, too; a day later it is tried again.
    let other = |seq| arrivals(vec![arrival(seq, vec![of(1, seq, 3)])]);
    flow.absorb(other(3), 23 * HOUR);
    assert_eq!(
        outcomes(&flow.take_settle(Millis::MAX, false).unwrap()),
        [("skipped", "opted_out", 1)]
    );
    // After a restart the journal says it.
    let marks = settled.settle.marks;
    let mut flow = flow_with(wary);
    assert_eq!(flow.unknown_marks(&other(4)), [marks[0].key]);
    flow.learn(&marks);
    assert!(flow.unknown_marks(&other(4)).is_empty());
    flow.absorb(other(4), 23 * HOUR);
    assert_eq!(
        outcomes(&flow.take_settle(Millis::MAX, false).unwrap()),
        [("skipped", "opted_out", 1)]
    );
    flow.absorb(other(5), 25 * HOUR);
    assert!(flow.next_job(25 * HOUR + 100).is_some());
}

#[test]
fn what_comes_a_day_late_is_dead_unless_it_is_replayed() {
    let mut flow = flow_with(|options| {
        options.requests[0].dead_after_ms = Some(24 * HOUR);
        options.requests[0].stale_after_ms = Some(7 * 24 * HOUR);
    });
    let now = 10 * 24 * HOUR;
    let aged = |seq: Seq, hours: Millis, origin: Origin| Arrival {
        at_ms: now,
        ts_ms: now - hours * HOUR,
        origin,
        ..arrival(seq, vec![of(0, seq, seq)])
    };
    let parked = |replay: Option<&str>| Origin::Parked {
        since_ms: now,
        attempts: 1,
        replay: replay.map(str::to_owned),
        reason: "paused_r0".into(),
        parts_done: 0,
    };
    flow.absorb(
        arrivals(vec![
            aged(0, 23, Origin::Fresh),
            aged(1, 25, Origin::Fresh),
            aged(2, 25, parked(None)),
            aged(3, 25, parked(Some("rep_1"))),
            aged(4, 200, parked(Some("rep_1"))),
        ]),
        now,
    );
    let job = flow.next_job(now + 100).unwrap();
    assert_eq!(seqs_of(&job), [0, 3]);
    flow.heard(job, heard(Verdict::Delivered), now + 100, 0.0);
    let settled = flow.take_settle(Millis::MAX, false).unwrap();
    assert_eq!(
        outcomes(&settled),
        [
            ("delivered", "", 2),
            ("skipped", "stale", 1),
            ("dead", "too_late", 2)
        ]
    );
    assert!(settled.settle.dead[0].detail.contains("a replay sends it"));
}

#[test]
fn requests_that_share_lanes_go_one_after_the_other() {
    let mut flow = flow_with(|options| options.requests[1].lanes = 0);
    let both = |seq, lane| arrival(seq, vec![of(0, seq, lane), of(1, seq, lane)]);
    flow.absorb(arrivals(vec![both(0, 1), both(1, 2)]), 0);
    let mut now = 100;
    let first = flow.next_job(now).unwrap();
    assert_eq!((first.batch.request, seqs_of(&first)), (0, vec![0, 1]));
    assert!(
        flow.next_job(5_000).is_none(),
        "not before the first is answered"
    );
    now = 5_000;
    flow.heard(first, heard(Verdict::Retry { after: None }), now, 0.0);
    now = flow.wakes_ms(now).unwrap();
    let again = flow.next_job(now).unwrap();
    assert_eq!(again.batch.request, 0);
    flow.heard(again, heard(Verdict::Delivered), now, 0.0);
    let mut sent = run(&mut flow, &mut now, |_| heard(Verdict::Delivered));
    sent.sort();
    assert_eq!(sent, [vec![0, 1]]);
    assert_eq!(flow.unsettled(), 0);
}

#[test]
fn what_always_spills_never_goes_in_batches() {
    let mut flow = flow_with(|options| {
        options.requests[0].spill = Some(1);
        options.requests[0].spill_always = true;
        options.requests[0].limits.items_max = 1;
        options.requests[1].limits.items_max = 1;
        options.requests[1].lanes = 0;
    });
    people(&mut flow, &[1, 2, 1, 1], 0);
    let mut now = 0;
    let mut order = Vec::new();
    while flow.unsettled() > 0 {
        let Some(job) = flow.next_job(now) else {
            now = flow.wakes_ms(now).expect("something wakes it").max(now + 1);
            continue;
        };
        assert_eq!(job.batch.request, 1);
        order.extend(seqs_of(&job));
        flow.heard(job, heard(Verdict::Delivered), now, 0.0);
    }
    assert_eq!(order, [0, 1, 2, 3]);
    assert!(now < 1_000, "{now}");
}

#[test]
fn fields_the_vendor_does_not_have_are_left_out_and_named() {
    let mut flow = Flow::new(options());
    let written = |seq: Seq, values: &str| {
        let mut part = of(0, seq, seq);
        if let PartResult::Item { json, .. } = &mut part.result {
            *json = format!(r#"{{"id":{seq},"values":{values}}}"#).into();
        }
        arrival(seq, vec![part])
    };
    flow.absorb(
        arrivals(vec![
            written(0, r#"{"known":"a"}"#),
            written(1, r#"{"Known":"a","odd":"b"}"#),
            written(2, r#"{"odd":"b"}"#),
        ]),
        0,
    );
    let job = flow.next_job(100).unwrap();
    assert_eq!(job.batch.items.len(), 3);
    flow.fields_known(0, "values", ["known".to_owned()].into());
    let refused = || Heard {
        look_up: true,
        ..heard(Verdict::Bisect)
    };
    flow.heard(job, refused(), 100, 0.0);
    let job = flow.next_job(100).unwrap();
    let sent: Vec<&[u8]> = job.batch.items.iter().map(|item| &item.json[..]).collect();
    assert_eq!(
        sent,
        [
            &br#"{"id":0,"values":{"known":"a"}}"#[..],
            br#"{"id":1,"values":{"Known":"a"}}"#
        ]
    );
    // Refused again, it is something else: the culprit is searched for.
    flow.heard(job, refused(), 100, 0.0);
    let half = flow.next_job(100).unwrap();
    assert_eq!(half.batch.items.len(), 1);
    flow.heard(half, heard(Verdict::Delivered), 100, 0.0);
    let settled = flow.take_settle(Millis::MAX, false).unwrap();
    assert_eq!(
        outcomes(&settled),
        [
            ("delivered", "", 1),
            ("skipped", "metadata_field_missing", 1),
            ("dead", "rejected", 1)
        ]
    );
    assert_eq!(flow.requests(100)[0].lacking, ["odd"]);
    // What comes now is looked at before it is sent.
    flow.absorb(arrivals(vec![written(3, r#"{"odd":"b"}"#)]), 200);
    assert_eq!(
        outcomes(&flow.take_settle(Millis::MAX, false).unwrap()),
        [("skipped", "metadata_field_missing", 1)]
    );
    flow.resume(300);
    flow.absorb(arrivals(vec![written(4, r#"{"odd":"b"}"#)]), 300);
    assert!(flow.next_job(500).is_some(), "perhaps somebody made it");
}
