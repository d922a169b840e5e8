//! What a blueprint promises of each request, kept: several requests of one integration, by step, on moved time.

use super::*;
use crate::blueprint::Verdict;
use crate::vendor::replies::{ItemVerdict, Reading, Reads, ReplyFacts, Room};

const SEVERAL: &str = r#"
blueprint: acme/several
title: Acme
about: A vendor for tests.
category: Testing
config:
  address: { type: url, label: Address }
track:
  seen:
    track: { user: =userId, n: =properties.n }
    person: { user: =userId, p: { "{properties.flag}": =properties.value } }
  bulk:
    bulk: { n: =properties.n }
  event:
    events: { n: =properties.n }
  scarce:
    hourly: { n: =properties.n }
requests:
  track:
    post: "{config.address}/track"
    body: =item
    lane: =userId
    pace: 1 s
    rate: [{ requests: 20, per: 1 s }]
    in_flight: 8
    stale_after: 7 d
  person:
    post: "{config.address}/person"
    batch: { items: 100, bytes: 100 KB, wait: 1 s }
    body: { people: =items }
    lane: =userId
    newest: "{userId}/{properties.flag}"
    combine: true
    requeue: [1 h, 6 h, 24 h]
    replies: by_body
  bulk:
    post: "{config.address}/bulk"
    batch: { items: 500, bytes: 900 KB, wait: 1 s }
    body: { items: =items }
  events:
    post: "{config.address}/events"
    batch: { items: 200, bytes: 100 KB, wait: 1 s }
    body: { items: =items }
    replies: by_body
  hourly:
    post: "{config.address}/hourly"
    batch: { items: 10, bytes: 100 KB, wait: 1 s }
    body: { items: =items }
    rate: [{ requests: 2, per: 1 h }]
    spill: one
  one:
    post: "{config.address}/one"
    body: =item
    rate: [{ requests: 10, per: 1 s }]
"#;

/// A reader that does as the body says: `each` by word, `room` as limit, left and seconds.
pub(in super::super) fn by_body(facts: &ReplyFacts<'_>) -> Reading {
    let body: Value = serde_json::from_slice(facts.body).unwrap_or_default();
    let one = |verdict: &Value| match verdict.as_str() {
        Some("missing") => ItemVerdict::Missing,
        Some("again") => ItemVerdict::Again,
        Some("dead") => ItemVerdict::Dead {
            reason: "invalid",
            detail: "event 17 is odd".into(),
        },
        _ => ItemVerdict::Delivered,
    };
    let verdict = match body["each"].as_array() {
        Some(each) => Reads::Each(each.iter().map(one).collect()),
        None if facts.status == 429 => Reads::All(Verdict::Retry { after: None }),
        None => Reads::Common,
    };
    let room = body["room"].as_array().map(|room| Room {
        limit: room[0].as_u64().unwrap(),
        remaining: room[1].as_u64().unwrap(),
        reset: Duration::from_secs(room[2].as_u64().unwrap()),
    });
    Reading {
        verdict,
        room,
        note: None,
        if_all: None,
        look_after: None,
        slow: false,
        look_up: false,
    }
}

/// A call the vendor got: when, by which request, what.
type Call = (i64, String, Value);

type Answers = Box<dyn FnMut(&str, &Value) -> Reply + Send>;

struct Acme {
    clock: Arc<ManualClock>,
    answers: Mutex<Answers>,
    calls: Mutex<Vec<Call>>,
}

impl Acme {
    fn new(
        bench: &Bench,
        answers: impl FnMut(&str, &Value) -> Reply + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            clock: bench.clock.clone(),
            answers: Mutex::new(Box::new(answers)),
            calls: Mutex::default(),
        })
    }

    fn now_says(&self, answers: impl FnMut(&str, &Value) -> Reply + Send + 'static) {
        *self.answers.lock() = Box::new(answers);
    }

    /// Calls of a request since the last look, and how many seconds after the start.
    fn calls(&self, request: &str) -> Vec<(i64, Value)> {
        let mut calls = self.calls.lock();
        let (these, others) = std::mem::take(&mut *calls)
            .into_iter()
            .partition(|call| call.1 == request);
        *calls = others;
        let these: Vec<Call> = these;
        these
            .into_iter()
            .map(|(at_ms, _, body)| (at_ms - START, body))
            .collect()
    }
}

impl Sender for Arc<Acme> {
    fn send(&self, request: Request, _: Duration) -> BoxFuture<'static, Reply> {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let reply = (self.answers.lock())(&request.name, &body);
        let call = (self.clock.now_ms(), request.name, body);
        self.calls.lock().push(call);
        Box::pin(async move { reply })
    }
}

impl Bench {
    async fn several(&self, acme: &Arc<Acme>) -> Worker {
        let text = SEVERAL;
        let checked = blueprint::check(text);
        let remarks = blueprint::render("test", text, &checked.diagnostics);
        let blueprint = checked.blueprint.expect(&remarks);
        let integration = self.integration(|integration| {
            integration.plan = Arc::new(blueprint.bind(&integration.config, &|_| false).unwrap());
            integration.blueprint = Arc::new(blueprint);
        });
        let feed = self.journal.open_feed(ID, FeedStart::At(0)).await.unwrap();
        let parts = Parts {
            integration,
            journal: self.journal.clone(),
            sender: Arc::new(acme.clone()),
            logbook: Logbook::none(),
            clock: self.clock.clone(),
            chance: StdRng::seed_from_u64(1),
            refresh: None,
            status: self.status.clone(),
            rates: self.rates.clone(),
            buckets: Default::default(),
        };
        Worker::new(parts, &feed)
    }

    /// Posts calls: name, user, when they happened (ms after the start), properties.
    async fn calls(&self, calls: impl IntoIterator<Item = (&str, String, i64, Value)>) {
        let records = calls.into_iter().map(|(name, user, at_ms, properties)| {
            let n = self.posted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let message = format!("m-{n}");
            let at = jiff::Timestamp::from_millisecond(START + at_ms).unwrap();
            let record = json!({
                "type": "track", "eventId": crate::event::event_id("src_1", &message).to_string(),
                "source": "src_1", "messageId": message, "receivedAt": at.to_string(),
                "timestamp": at.to_string(), "userId": user, "event": name, "properties": properties,
            });
            Record {
                fingerprint: self.journal.fingerprint("src_1", &message),
                bytes: record.to_string().into(),
            }
        });
        self.journal.append(records.collect()).await.unwrap();
    }
}

fn numbered(
    name: &'static str,
    n: Range<u64>,
) -> impl Iterator<Item = (&'static str, String, i64, Value)> {
    n.map(move |n| {
        (
            name,
            format!("u{n}"),
            0,
            json!({ "n": n, "flag": "f", "value": "on" }),
        )
    })
}

fn ok(_: &str, _: &Value) -> Reply {
    status(200, "{}")
}

/// The items of a batch that are not `n`.
fn each(body: &Value, word: impl Fn(u64) -> &'static str) -> Reply {
    let items = body["items"].as_array().unwrap();
    let each: Vec<&str> = items
        .iter()
        .map(|item| word(item["n"].as_u64().unwrap()))
        .collect();
    status(207, &json!({ "each": each }).to_string())
}

#[tokio::test]
async fn of_two_hundred_the_one_refused_by_number_dies_and_what_is_again_goes_again() {
    let bench = Bench::new();
    let mut first = true;
    let acme = Acme::new(&bench, move |_, body| {
        let again = std::mem::take(&mut first);
        each(body, |n| match n {
            17 => "dead",
            40..43 if again => "again",
            _ => "ok",
        })
    });
    let mut worker = bench.several(&acme).await;
    bench.calls(numbered("event", 0..200)).await;
    bench.pass(&mut worker, 5_000).await;
    let ledger = bench.ledger().await;
    assert_eq!((ledger.delivered, ledger.pending), (199, 0));
    let letters = bench
        .journal
        .dead_letters(DeadFilter::default(), None, 10)
        .await
        .unwrap();
    assert_eq!((letters[0].seq, letters[0].status), (17, Some(207)));
    assert_eq!(
        (&*letters[0].reason, &*letters[0].detail),
        ("invalid", "event 17 is odd")
    );
    let sizes: Vec<_> = acme
        .calls("events")
        .iter()
        .map(|(_, body)| body["items"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes, [200, 3]);
}

#[tokio::test]
async fn one_poisoned_of_five_hundred_is_isolated_in_ten_more_calls() {
    for poison in [0, 123, 499] {
        let bench = Bench::new();
        let acme = Acme::new(&bench, move |_, body| {
            let items = body["items"].as_array().unwrap();
            let bad = items.iter().any(|item| item["n"] == poison);
            if bad {
                status(400, "{}")
            } else {
                status(200, "{}")
            }
        });
        let mut worker = bench.several(&acme).await;
        bench.calls(numbered("bulk", 0..500)).await;
        bench.pass(&mut worker, 5_000).await;
        let ledger = bench.ledger().await;
        assert_eq!(
            (ledger.delivered, ledger.dead),
            (499, vec![("rejected".to_owned(), 1)])
        );
        let calls = acme.calls("bulk").len();
        assert!(calls <= 11, "{calls} calls");
    }
}

#[tokio::test]
async fn a_request_of_events_one_by_one_keeps_its_rate_and_its_pace_without_busy_waiting() {
    let bench = Bench::new();
    let acme = Acme::new(&bench, ok);
    let mut worker = bench.several(&acme).await;
    bench.calls(numbered("seen", 0..400)).await;
    bench
        .calls((0..5).map(|n| ("seen", "u7".to_owned(), n, json!({ "n": 1_000 + n }))))
        .await;
    let mut steps = 0;
    while bench.ledger().await.pending > 0 {
        steps += 1;
        assert!(steps < 4_000, "{steps} steps for 405 calls");
        if let Step::Idle(wakes) = worker.step().await.unwrap() {
            let now = bench.clock.now_ms();
            bench.clock.advance((wakes.unwrap() - now).max(1));
        }
    }
    let calls = acme.calls("track");
    assert_eq!(calls.len(), 405);
    for window in calls.windows(21) {
        assert!(
            window[20].0 - window[0].0 >= 1_000,
            "more than 20 in a second"
        );
    }
    assert!(calls[404].0 < 30_000, "{} ms", calls[404].0);
    let of_one: Vec<_> = calls
        .iter()
        .filter(|(_, body)| body["user"] == "u7")
        .collect();
    let order: Vec<_> = of_one
        .iter()
        .map(|(_, body)| body["n"].as_u64().unwrap())
        .collect();
    assert_eq!(order, [7, 1_000, 1_001, 1_002, 1_003, 1_004]);
    assert!(of_one.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 1_000));
    let people = acme.calls("person");
    assert!(people.len() <= 6, "{}", people.len());
}

#[tokio::test]
async fn a_paused_request_holds_up_no_other_and_sends_only_what_is_missing_later() {
    let bench = Bench::new();
    let acme = Acme::new(&bench, |name, _| match name {
        "track" => status(403, "which secret?"),
        _ => status(200, "{}"),
    });
    let mut worker = bench.several(&acme).await;
    for thousand in 0..12 {
        let from = thousand * 1_000;
        bench.calls(numbered("seen", from..from + 1_000)).await;
    }
    bench.pass(&mut worker, 120_000).await;
    let people: usize = acme
        .calls("person")
        .iter()
        .map(|(_, body)| body["people"].as_array().unwrap().len())
        .collect::<Vec<_>>()
        .iter()
        .sum();
    assert_eq!(
        people, 12_000,
        "the other request went on past a full window"
    );
    let state = bench.status.lock().clone();
    assert_eq!(
        (state.state, state.reason.as_deref()),
        (State::Paused, Some("forbidden"))
    );
    assert_eq!(state.detail.as_deref(), Some("`track`: which secret?"));
    let states: Vec<_> = state
        .requests
        .iter()
        .take(2)
        .map(|request| (request.state, request.apart))
        .collect();
    assert_eq!(bench.ledger().await.pending, 12_000);
    assert_eq!(
        states,
        [(State::Paused, true), (State::Running, false)],
        "{:?}",
        state.requests
    );
    // Restarted meanwhile; then the secret is put right.
    drop(worker);
    let mut worker = bench.several(&acme).await;
    bench.pass(&mut worker, 5_000).await;
    acme.calls("track");
    acme.now_says(ok);
    worker.obey(Order::Resume);
    bench.pass(&mut worker, 700_000).await;
    let mut users: Vec<String> = acme
        .calls("track")
        .iter()
        .map(|(_, body)| body["user"].to_string())
        .collect();
    users.sort_unstable();
    users.dedup();
    assert_eq!(users.len(), 12_000);
    // Those set apart know which of their parts got through; only what was in memory at the restart is sent anew.
    let again: usize = acme
        .calls("person")
        .iter()
        .map(|(_, body)| body["people"].as_array().unwrap().len())
        .sum();
    assert!(again <= 8_192, "{again} sent again");
    let ledger = bench.ledger().await;
    assert_eq!((ledger.delivered, ledger.pending), (12_000, 0));
}

#[tokio::test]
async fn a_late_retry_never_restores_an_old_value_nor_does_one_after_a_restart() {
    let value = |at_ms: i64, value: &str| {
        (
            "seen",
            "u1".to_owned(),
            at_ms,
            json!({ "flag": "f", "value": value }),
        )
    };
    let bench = Bench::new();
    let acme = Acme::new(&bench, |name, _| match name {
        "person" => status(503, ""),
        _ => status(200, "{}"),
    });
    let mut worker = bench.several(&acme).await;
    bench.calls([value(1_000, "old")]).await;
    bench.pass(&mut worker, 3_000).await;
    assert!(!acme.calls("person").is_empty());
    bench.calls([value(2_000, "new")]).await;
    bench.pass(&mut worker, 3_000).await;
    acme.calls("person");
    acme.now_says(ok);
    bench.pass(&mut worker, 60_000).await;
    let sent: Vec<_> = acme
        .calls("person")
        .iter()
        .map(|(_, body)| body["people"][0]["p"]["f"].to_string())
        .collect();
    assert_eq!(sent, [r#""new""#]);
    // One that happened before, but was posted late and after a restart, is recognised by what the journal keeps.
    drop(worker);
    let mut worker = bench.several(&acme).await;
    bench.calls([value(1_500, "late")]).await;
    bench
        .calls([(
            "seen",
            "u1".to_owned(),
            1_400,
            json!({ "flag": "g", "value": "other" }),
        )])
        .await;
    bench.pass(&mut worker, 60_000).await;
    let sent: Vec<_> = acme
        .calls("person")
        .into_iter()
        .map(|(_, body)| body["people"].clone())
        .collect();
    assert_eq!(sent, [json!([{ "user": "u1", "p": { "g": "other" } }])]);
    assert_eq!(bench.ledger().await.pending, 0);
}

#[tokio::test]
async fn flags_of_one_person_go_as_one_object() {
    let bench = Bench::new();
    let acme = Acme::new(&bench, ok);
    let mut worker = bench.several(&acme).await;
    let flags = ["a", "b", "c", "a"].into_iter().zip(["1", "2", "3", "4"]);
    bench
        .calls(flags.map(|(flag, value)| {
            (
                "seen",
                "u1".to_owned(),
                0,
                json!({ "flag": flag, "value": value }),
            )
        }))
        .await;
    bench.pass(&mut worker, 30_000).await;
    let sent: Vec<_> = acme
        .calls("person")
        .into_iter()
        .map(|(_, body)| body["people"].clone())
        .collect();
    assert_eq!(
        sent,
        [json!([{ "user": "u1", "p": { "a": "4", "b": "2", "c": "3" } }])]
    );
    assert_eq!(bench.ledger().await.delivered, 4);
}

#[tokio::test]
async fn a_reset_of_seven_seconds_stops_that_bucket_alone() {
    let bench = Bench::new();
    let mut refused = false;
    let acme = Acme::new(&bench, move |name, _| match name {
        "events" if !std::mem::replace(&mut refused, true) => status(429, r#"{"room":[100,0,7]}"#),
        _ => status(200, "{}"),
    });
    let mut worker = bench.several(&acme).await;
    bench.calls(numbered("event", 0..200)).await;
    bench.pass(&mut worker, 500).await;
    bench.calls(numbered("event", 200..800)).await;
    bench.calls(numbered("seen", 0..100)).await;
    bench.pass(&mut worker, 30_000).await;
    let events = acme.calls("events");
    assert_eq!(events.len(), 5, "one refused, four taken");
    let first = events[0].0;
    assert!(
        events[1].0 >= first + 7_000 && events[1].0 <= first + 12_000,
        "{events:?}"
    );
    let between = acme
        .calls("track")
        .iter()
        .filter(|(at, _)| *at > first && *at < first + 7_000)
        .count();
    assert!(between >= 90, "{between} of the others went on");
    assert_eq!(bench.ledger().await.pending, 0);
}

#[tokio::test]
async fn what_is_missing_is_asked_again_after_one_six_and_twenty_four_hours() {
    const HOUR: i64 = 3_600_000;
    let bench = Bench::new();
    let acme = Acme::new(&bench, |name, body| match name {
        "person" => {
            let n = body["people"].as_array().unwrap().len();
            status(200, &json!({ "each": vec!["missing"; n] }).to_string())
        }
        _ => status(200, "{}"),
    });
    let mut worker = bench.several(&acme).await;
    bench.calls(numbered("seen", 0..2)).await;
    bench.pass(&mut worker, 60_000).await;
    assert_eq!(bench.ledger().await.pending, 2);
    bench.pass(&mut worker, 20 * HOUR).await;
    drop(worker);
    let mut worker = bench.several(&acme).await;
    bench.pass(&mut worker, 20 * HOUR).await;
    let calls: Vec<i64> = acme
        .calls("person")
        .iter()
        .map(|(at, _)| (at + HOUR / 2) / HOUR)
        .collect();
    assert_eq!(calls, [0, 1, 7, 31]);
    assert_eq!(
        acme.calls("track").len(),
        2,
        "the part that got through is not sent again"
    );
    // The other part was delivered, and that is what the event counts as.
    let ledger = bench.ledger().await;
    assert_eq!((ledger.delivered, ledger.pending), (2, 0));
}

#[tokio::test]
async fn what_has_become_too_old_is_not_sent() {
    let bench = Bench::new();
    let acme = Acme::new(&bench, |name, _| match name {
        "track" => status(403, ""),
        _ => status(200, "{}"),
    });
    let mut worker = bench.several(&acme).await;
    let eight_days = -8 * 24 * 3_600_000;
    bench
        .calls([(
            "seen",
            "u1".to_owned(),
            eight_days,
            json!({ "flag": "f", "value": "v" }),
        )])
        .await;
    bench.pass(&mut worker, 10_000).await;
    assert!(acme.calls("track").is_empty());
    assert_eq!(acme.calls("person").len(), 1);
    assert_eq!(bench.ledger().await.delivered, 1);
}

#[tokio::test]
async fn while_a_rate_is_used_up_the_oldest_go_one_by_one_by_another_request() {
    let bench = Bench::new();
    let acme = Acme::new(&bench, ok);
    let mut worker = bench.several(&acme).await;
    bench.calls(numbered("scarce", 0..100)).await;
    bench.pass(&mut worker, 60_000).await;
    assert_eq!(acme.calls("hourly").len(), 2);
    let spilled = acme.calls("one");
    let order: Vec<u64> = spilled
        .iter()
        .map(|(_, body)| body["n"].as_u64().unwrap())
        .collect();
    assert_eq!(order, (20..100).collect::<Vec<_>>());
    assert!(spilled.windows(11).all(|ten| ten[10].0 - ten[0].0 >= 1_000));
    // A pipeline begun anew knows what was sent.
    drop(worker);
    let mut worker = bench.several(&acme).await;
    bench.calls(numbered("scarce", 100..110)).await;
    bench.pass(&mut worker, 60_000).await;
    assert_eq!(
        (acme.calls("hourly").len(), acme.calls("one").len()),
        (0, 10)
    );
    assert_eq!(bench.ledger().await.delivered, 110);
}

#[tokio::test]
async fn a_feed_nobody_delivers_is_held_to_its_limits_on_the_books() {
    let bench = Bench::new();
    bench.journal.open_feed(ID, FeedStart::At(0)).await.unwrap();
    bench.calls(numbered("event", 0..300)).await;
    bench.clock.advance(3_600_000);
    bench.calls(numbered("event", 300..400)).await;
    let before_ms = bench.clock.now_ms() - 1_000_000;
    let expire =
        |before_ms, bytes| super::super::expiry::of_idle_feed(&bench.journal, ID, before_ms, bytes);
    assert_eq!(expire(START - 1, u64::MAX).await.unwrap(), 0);
    assert_eq!(expire(before_ms, u64::MAX).await.unwrap(), 300);
    assert_eq!(expire(before_ms, u64::MAX).await.unwrap(), 0);
    let ledger = bench.ledger().await;
    assert_eq!(
        (ledger.skipped, ledger.pending),
        (vec![("expired".to_owned(), 300)], 100)
    );
    assert_eq!(expire(before_ms, 1).await.unwrap(), 100);
}

/// As another process finds it.
impl Bench {
    async fn killed(&self, worker: Worker, acme: &Arc<Acme>) -> Worker {
        drop(worker);
        self.rates.lock().clear();
        self.several(acme).await
    }
}

#[tokio::test]
async fn what_one_request_took_is_not_sent_again_after_a_kill_while_another_is_down() {
    let bench = Bench::new();
    let acme = Acme::new(&bench, |name, _| match name {
        "person" => status(503, ""),
        _ => status(200, "{}"),
    });
    let mut worker = bench.several(&acme).await;
    bench.calls(numbered("seen", 0..40)).await;
    for round in 0..5 {
        bench.pass(&mut worker, 4_000).await;
        let n = acme.calls("track").len();
        assert_eq!(n, if round == 0 { 40 } else { 0 }, "round {round}");
        assert_eq!(bench.ledger().await.pending, 40);
        worker = bench.killed(worker, &acme).await;
    }
    let feed = bench.journal.open_feed(ID, FeedStart::Now).await.unwrap();
    assert_eq!(feed.parts.len(), 40);
    acme.now_says(ok);
    acme.calls("person");
    bench.pass(&mut worker, 60_000).await;
    assert!(acme.calls("track").is_empty());
    let people: usize = acme
        .calls("person")
        .iter()
        .map(|(_, body)| body["people"].as_array().unwrap().len())
        .sum();
    assert_eq!(people, 40);
    let ledger = bench.ledger().await;
    assert_eq!((ledger.delivered, ledger.pending), (40, 0));
    let feed = bench.journal.open_feed(ID, FeedStart::Now).await.unwrap();
    assert!(feed.parts.is_empty());
}

#[tokio::test]
async fn an_hours_rate_holds_through_kills() {
    let bench = Bench::new();
    let acme = Acme::new(&bench, ok);
    let mut worker = bench.several(&acme).await;
    for round in 0..6 {
        bench
            .calls(numbered("scarce", round * 10..round * 10 + 10))
            .await;
        bench.pass(&mut worker, 30_000).await;
        worker = bench.killed(worker, &acme).await;
    }
    let (hourly, single) = (acme.calls("hourly").len(), acme.calls("one").len());
    assert!(hourly <= 2, "{hourly} in an hour");
    assert_eq!(hourly * 10 + single, 60);
    bench.clock.advance(3_600_000);
    bench.calls(numbered("scarce", 60..70)).await;
    bench.pass(&mut worker, 60_000).await;
    assert_eq!(acme.calls("hourly").len(), 1, "the hour is over");
    assert_eq!(bench.ledger().await.delivered, 70);
}
