//! Ten thousand decisions, and everything a vendor can do wrong: at the end each vendor shows the newest of each person
//! and flag. An unoptimised build takes fewer unless told otherwise (`make chaos` runs them all):
//! `AQUEDUCT_CHAOS_DECISIONS` and `AQUEDUCT_CHAOS_SEED` choose another size and another course.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Map, json};

use super::*;

const FLAGS: [&str; 5] = [
    "checkout-redesign",
    "new_nav",
    "Search Ranking",
    "price.test",
    "banner",
];
const VARIATIONS: [&str; 4] = ["control", "v1", "v2", "v3"];

/// How many there are when nothing is said.
const SIZE: u64 = if cfg!(debug_assertions) {
    4_000
} else {
    10_000
};

/// Decisions of one person on average.
const EACH: usize = 5;

/// The clock of this test runs so much faster.
const BRISK: u32 = 40;

/// How long everything may take to arrive.
const LONGEST: Duration = Duration::from_secs(300);

#[expect(
    clippy::disallowed_methods,
    reason = "a test's settings, not the gateway's"
)]
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}"))
    })
}

/// What was decided last, by person and flag.
type Newest = BTreeMap<String, BTreeMap<&'static str, &'static str>>;

/// The course of one run.
struct Course {
    fan: Fan,
    chance: StdRng,
    people: Vec<String>,
    newest: Newest,
    /// The newest of those the gateway made itself: only these are Optimizely's.
    own: Newest,
    /// Seconds taken by decisions of a person and flag: ODP tells no finer.
    taken: BTreeSet<(usize, usize, i64)>,
    posted: usize,
    ids: Vec<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_each_vendor_shows_the_newest_decision() {
    let size = usize::try_from(number("AQUEDUCT_CHAOS_DECISIONS", SIZE)).expect("fits");
    let seed = number("AQUEDUCT_CHAOS_SEED", 7);
    let began = Instant::now();
    let mut course = Course::begin(size, seed).await;
    let base_ms = course.fan.now_ms();

    // Some have been decided within the last hour and are told now, in no order.
    let past = base_ms / 1000 - 3_600..base_ms / 1000 - 1;
    course.report(size * 4 / 10, past.clone(), false).await;
    // The gateway's own, twice for the same people.
    for _round in 0..2 {
        course.decide(size / 10 / FLAGS.len()).await;
        course.fan.pass(3_000).await;
    }
    // Newer ones, and among them old ones that were held up somewhere.
    let since = course.fan.now_ms() / 1000;
    course.fan.pass(60_000).await;
    let until = course.fan.now_ms() / 1000;
    course.report(size * 3 / 10, since..until, true).await;
    let rest = size - course.posted;
    course.report(rest, past, false).await;
    assert_eq!(course.posted, size);
    let posted = began.elapsed();

    course.settle().await;
    let settled = began.elapsed();
    course.check_vendors();
    course.check_books().await;
    eprintln!(
        "{size} decisions of {} people, seed {seed}: posted after {posted:.1?}, all settled after {settled:.1?}; {}",
        course.people.len(),
        course.figures()
    );
    course.fan.stop().await;
}

impl Fan {
    /// Lets so much of the test's time pass.
    async fn pass(&self, ms: u64) {
        use aqueduct::clock::Clock as _;
        tokio::time::sleep(self.clock.timer(Duration::from_millis(ms))).await;
    }
}

impl Course {
    async fn begin(size: usize, seed: u64) -> Self {
        let fan = Fan::start_with(BRISK).await;
        let people = users("user", (size / EACH).max(1));
        fan.policies(json!({
            "pendo": {"visitor_interval_ms": 1000, "requests_per_s": 20},
        }));
        let path = "/optimizely/datafiles/demo.json";
        let datafile = datafile(fan.app.sandbox("GET", path, None).await);
        fan.app
            .vendors
            .put_datafile("demo", datafile)
            .expect("datafile");
        // Loaded machines are slow; a vendor that hangs is still given up.
        let tuning = json!({"timeout_ms": 3_000, "retry_base_ms": 1_000, "retry_cap_ms": 10_000, "batch_wait_ms": 2_000});
        let mut ids = vec![
            fan.app
                .install_optimizely("Optimizely", tuning.clone())
                .await,
        ];
        let ask =
            json!({"userId": "nobody", "keys": ["banner"], "options": ["DISABLE_DECISION_EVENT"]});
        let asked = Instant::now();
        while fan.app.post("/v1/decide", &ask).await.0 != 200 {
            assert!(asked.elapsed() < PATIENCE, "the datafile is not read");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let slugs: Vec<String> = FLAGS.iter().map(|flag| slug(flag)).collect();
        let slugs: Vec<&str> = slugs.iter().map(String::as_str).collect();
        fan.prepare(&people, &slugs);
        fan.prepare(&["nobody".to_owned()], &[]);
        for vendor in ["heap", "pendo", "brevo", "odp"] {
            ids.push(fan.install(vendor, json!({}), tuning.clone()).await);
        }
        fan.faults(trouble(seed)).await;
        Self {
            fan,
            chance: StdRng::seed_from_u64(seed),
            people,
            newest: Newest::new(),
            own: Newest::new(),
            taken: BTreeSet::new(),
            posted: 0,
            ids,
        }
    }

    /// So many decisions as SDKs report them, at some second of a range each.
    async fn report(&mut self, n: usize, seconds: std::ops::Range<i64>, newer: bool) {
        let mut told: Vec<(i64, usize, usize, &'static str, Value)> = Vec::new();
        while told.len() < n {
            let (who, flag) = (
                self.chance.random_range(0..self.people.len()),
                self.chance.random_range(0..FLAGS.len()),
            );
            let second = self.chance.random_range(seconds.clone());
            if !self.taken.insert((who, flag, second)) {
                continue;
            }
            let variation = VARIATIONS[self.chance.random_range(0..VARIATIONS.len())];
            let id = format!("r-{}-{}", self.posted, told.len());
            let at_ms = second * 1000 + self.chance.random_range(0..1000);
            let one = decision(&id, &self.people[who], FLAGS[flag], variation, at_ms);
            told.push((second, who, flag, variation, one));
        }
        let posted: Vec<Value> = told.iter().map(|told| told.4.clone()).collect();
        self.fan.post(&posted).await;
        self.posted += n;
        // The newest of them is the newest of all only where nothing newer is known.
        told.sort_by_key(|told| told.0);
        let latest: BTreeMap<(usize, usize), i64> = self.latest();
        for (second, who, flag, variation, _) in told {
            let known = latest.get(&(who, flag)).copied().unwrap_or(i64::MIN);
            if newer || second >= known {
                let flags = self.newest.entry(self.people[who].clone()).or_default();
                flags.insert(FLAGS[flag], variation);
            }
        }
    }

    /// The latest second taken, by person and flag.
    fn latest(&self) -> BTreeMap<(usize, usize), i64> {
        let mut latest = BTreeMap::new();
        for (who, flag, second) in &self.taken {
            latest.insert((*who, *flag), *second);
        }
        latest
    }

    /// All flags of so many people, decided by the gateway.
    async fn decide(&mut self, people: usize) {
        for who in 0..people.min(self.people.len()) {
            let user = self.people[who].clone();
            let mut forced = Vec::new();
            let mut chosen = BTreeMap::new();
            for flag in FLAGS {
                let variation = VARIATIONS[self.chance.random_range(0..VARIATIONS.len())];
                forced.push(json!({"flagKey": flag, "variationKey": variation}));
                chosen.insert(flag, variation);
            }
            let ask = json!({"userId": user, "keys": FLAGS, "forcedDecisions": forced});
            let (status, reply) = self.fan.app.post("/v1/decide", &ask).await;
            assert_eq!(status, 200, "{reply}");
            let answers = reply.as_array().expect("several");
            assert_eq!(answers.len(), FLAGS.len());
            for answer in answers {
                let flag = answer["flagKey"].as_str().expect("flag");
                assert_eq!(answer["variationKey"], json!(chosen[flag]), "{answer}");
            }
            let now_s = self.fan.now_ms() / 1000;
            for flag in 0..FLAGS.len() {
                self.taken.insert((who, flag, now_s));
            }
            self.own.insert(user.clone(), chosen.clone());
            self.newest.entry(user).or_default().extend(chosen);
            self.posted += FLAGS.len();
        }
    }

    /// Waits until every event has an outcome everywhere.
    async fn settle(&self) {
        let began = Instant::now();
        loop {
            let (status, reply) = self.fan.app.admin("GET", "ledger", None).await;
            assert_eq!((status, &reply["balanced"]), (200, &json!(true)), "{reply}");
            let rows = reply["data"].as_array().expect("rows");
            if rows.iter().all(|row| row["pending"] == json!(0)) {
                return;
            }
            if began.elapsed() > LONGEST {
                for id in &self.ids {
                    eprintln!("{}", self.fan.status(id).await);
                }
                panic!("not everything arrives: {reply}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Every vendor shows the newest decision of each person and flag.
    fn check_vendors(&self) {
        for vendor in ["optimizely", "heap", "pendo", "brevo", "odp"] {
            let newest = if vendor == "optimizely" {
                &self.own
            } else {
                &self.newest
            };
            let by_slug = matches!(vendor, "pendo" | "brevo");
            let shown = self.fan.app.vendors.values(vendor, "");
            let mut wrong = Vec::new();
            for (user, flags) in newest {
                let name = |flag: &str| match by_slug {
                    true => slug(flag),
                    false => flag.to_owned(),
                };
                let wanted: Map<String, Value> = flags
                    .iter()
                    .map(|(flag, variation)| (name(flag), json!(variation)))
                    .collect();
                let is: BTreeMap<_, _> = shown[user].as_object().into_iter().flatten().collect();
                if is != wanted.iter().collect() {
                    wrong.push(format!("{user}: wanted {wanted:?}, shows {is:?}"));
                }
            }
            assert!(
                wrong.is_empty(),
                "{vendor}: {} of {} people are wrong: {:#?}",
                wrong.len(),
                newest.len(),
                &wrong[..wrong.len().min(5)]
            );
        }
    }

    /// Nothing died, every skip has a reason that was to be expected, the rest was delivered.
    async fn check_books(&self) {
        let own: usize = 2 * self.own.values().map(BTreeMap::len).sum::<usize>();
        for (at, id) in self.ids.iter().enumerate() {
            let row = self.fan.app.ledger(id).await;
            let n = |key: &str| row[key].as_u64().unwrap_or_else(|| panic!("{row}"));
            assert_eq!((n("dead"), n("pending")), (0, 0), "{row}");
            let reasons = row["skipped_reasons"].as_object().expect("reasons");
            let named: u64 = reasons.values().filter_map(Value::as_u64).sum();
            assert_eq!(named, n("skipped"), "{row}");
            let expected: &[&str] = match at {
                0 => &["dispatched_by_sdk", "no_impression"],
                _ => &["unchanged", "superseded"],
            };
            for reason in reasons.keys() {
                assert!(expected.contains(&reason.as_str()), "{row}");
            }
            if at == 0 {
                assert_eq!(n("delivered"), own as u64, "{row}");
            }
        }
        for n in 0..20 {
            for id in &self.ids[1..] {
                let (outcome, reason) = self.fan.outcome(&format!("r-0-{n}"), id).await;
                let named = matches!(
                    (outcome.as_str(), reason.as_str()),
                    ("delivered", _) | ("skipped", "unchanged" | "superseded")
                );
                assert!(named, "r-0-{n}: {outcome} {reason}");
            }
        }
        let breaches = self.fan.app.vendors.breaches(None);
        assert_eq!(breaches["refused"], json!({}), "{breaches}");
    }

    fn figures(&self) -> Value {
        let mut figures = Map::new();
        for vendor in ["brevo", "heap", "pendo", "odp"] {
            figures.insert(
                vendor.to_owned(),
                self.fan.app.vendors.state(vendor, "", 1)["requests"].clone(),
            );
        }
        let breaches = self.fan.app.vendors.breaches(None);
        figures.insert("limits broken".to_owned(), breaches["total"].clone());
        figures.insert("silent".to_owned(), breaches["silent"].clone());
        Value::Object(figures)
    }
}

/// What goes wrong. Few requests go to some vendors: there the chances are greater.
fn trouble(seed: u64) -> Value {
    let lost = json!({"wire": "reset", "process": true});
    let mut rules = Vec::new();
    for (path, chance) in [
        ("/optimizely/v1/events", 0.1),
        ("/heap-us/api", 0.06),
        ("/brevo/v3", 0.03),
        ("/odp/v3", 0.05),
        ("/pendo-app/api/v1/metadata", 0.05),
        ("/pendo-data", 0.01),
    ] {
        let mut rule = |times: u64, action: Value| {
            let chance = if times < 4 { 2.0 * chance } else { chance };
            rules.push(
                json!({"path": path, "probability": chance, "times": times, "action": action}),
            );
        };
        // Slowing down is what they ask for, so they ask for it a few times only.
        rule(
            3,
            json!({"status": 429, "headers": {"x-sib-ratelimit-limit": "100", "x-sib-ratelimit-remaining": "0",
            "x-sib-ratelimit-reset": "3"}}),
        );
        rule(2, json!({"wire": "hang", "process": true}));
        rule(2, json!({"wire": "hang"}));
        rule(1_000, json!({"status": 500}));
        rule(1_000, json!({"status": 503}));
        rule(1_000, json!({"wire": "reset"}));
        rule(1_000, json!({"wire": "garbage"}));
        rule(1_000, lost.clone());
        rule(1_000, json!({"wire": "close", "process": true}));
    }
    json!({"seed": seed, "rules": rules})
}

/// A flag's name where only letters, digits and `_` are taken.
fn slug(flag: &str) -> String {
    flag.to_lowercase()
        .split(|c: char| !c.is_ascii_alphanumeric())
        .collect::<Vec<_>>()
        .join("_")
}

/// The demo's datafile with the flags of this test.
fn datafile(mut datafile: Value) -> Value {
    for (n, flag) in FLAGS.iter().enumerate() {
        let variations: Vec<Value> = VARIATIONS
            .iter()
            .enumerate()
            .map(|(v, key)| json!({"id": format!("88{n}{v}"), "key": key, "featureEnabled": true, "variables": []}))
            .collect();
        let experiment = json!({
            "id": format!("86{n}"), "key": format!("test {n}"), "status": "Running", "layerId": format!("85{n}"),
            "type": "ab", "audienceIds": [], "audienceConditions": [], "forcedVariations": {}, "variations": variations,
            "trafficAllocation": [{"entityId": format!("88{n}0"), "endOfRange": 10_000}],
        });
        let flag = json!({"id": format!("87{n}"), "key": flag, "rolloutId": "", "experimentIds": [format!("86{n}")],
            "variables": []});
        for (list, new) in [("experiments", experiment), ("featureFlags", flag)] {
            datafile[list].as_array_mut().expect("list").push(new);
        }
    }
    datafile["revision"] = json!("2000");
    datafile
}
