//! Against an ODP that is a closure.

use super::*;
use crate::clock::ManualClock;

const NOW: Millis = 1_795_223_290_000;

/// Answers in turn, and keeps what it was asked.
#[derive(Default)]
struct Fake {
    answers: Mutex<VecDeque<Result<(u16, String), SendErrorKind>>>,
    asked: Mutex<Vec<Request>>,
}

impl Asker for Fake {
    fn ask(&self, request: Request, _: Duration) -> BoxFuture<'_, Result<Reply, SendErrorKind>> {
        self.asked.lock().push(request);
        let answer = self.answers.lock().pop_front().expect("an answer");
        Box::pin(async move {
            let (status, body) = answer?;
            Ok(Reply {
                status,
                body: Bytes::from(body),
                cut: false,
            })
        })
    }
}

fn of(nodes: &[(&str, &str)]) -> Result<(u16, String), SendErrorKind> {
    let edges: Vec<Value> = nodes
        .iter()
        .map(|(name, state)| json!({"node": {"name": name, "state": state}}))
        .collect();
    let body = json!({"data": {"customer": {"audiences": {"edges": edges}}}});
    Ok((200, body.to_string()))
}

fn lookup(
    answers: impl IntoIterator<Item = Result<(u16, String), SendErrorKind>>,
) -> (Lookup, Arc<Fake>, Arc<ManualClock>) {
    let fake = Arc::new(Fake::default());
    fake.answers.lock().extend(answers);
    let clock = ManualClock::at(NOW);
    let lookup = Lookup::new(fake.clone(), Arc::clone(&clock) as SharedClock);
    (lookup, fake, clock)
}

fn odp() -> Odp {
    Odp {
        host: "https://odp.example/".to_owned(),
        public_key: "W4WzcEs-ABgXorzY7h1LCQ".to_owned(),
    }
}

#[tokio::test]
async fn ids_travel_as_variables_and_only_qualified_counts() {
    let (lookup, fake, _) = lookup([of(&[("a", "qualified"), ("b", "disqualified")]), of(&[])]);
    let wanted = ["a".to_owned(), "b".to_owned()];
    let user = "u\"} evil {";
    let segments = lookup.qualified(&odp(), &wanted, user, Caching::Use).await;
    assert_eq!(&*segments.expect("segments"), ["a".to_owned()]);
    let request = fake.asked.lock().remove(0);
    assert_eq!(request.url.expose(), "https://odp.example/v3/graphql");
    let body: Value = serde_json::from_slice(&request.body).expect("JSON");
    assert_eq!(
        body["query"],
        "query($userId: String, $audiences: [String]) {customer(fs_user_id: $userId) {audiences(subset: $audiences) {edges {node {name state}}}}}"
    );
    assert_eq!(
        body["variables"],
        json!({"userId": user, "audiences": ["a", "b"]})
    );
    let visitor = "vuid_00000000000000000000000000";
    let none = lookup
        .qualified(&odp(), &wanted, visitor, Caching::Use)
        .await;
    assert!(none.expect("segments").is_empty());
    let body = fake.asked.lock().remove(0).body;
    assert!(String::from_utf8_lossy(&body).contains("customer(vuid: $userId)"));
}

#[tokio::test]
async fn answers_are_remembered_for_ten_minutes() {
    let answers = ["1", "2", "3", "4", "5"].map(|name| of(&[(name, "qualified")]));
    let (lookup, fake, clock) = lookup(answers);
    let wanted = ["1".to_owned()];
    let ask = async |caching| {
        let segments = lookup.qualified(&odp(), &wanted, "u", caching).await;
        segments.expect("segments").join(",")
    };
    assert_eq!(ask(Caching::Use).await, "1");
    clock.advance(REMEMBERED_MS - 1);
    assert_eq!(ask(Caching::Use).await, "1");
    assert_eq!(ask(Caching::Ignore).await, "2");
    assert_eq!(ask(Caching::Use).await, "1");
    clock.advance(1);
    assert_eq!(ask(Caching::Use).await, "3");
    assert_eq!(ask(Caching::Reset).await, "4");
    assert_eq!(ask(Caching::Use).await, "4");
    // Another subset is another question.
    let other = ["9".to_owned()];
    let segments = lookup.qualified(&odp(), &other, "u", Caching::Use).await;
    assert_eq!(&*segments.expect("segments"), ["5".to_owned()]);
    assert_eq!(fake.asked.lock().len(), 5);
}

#[tokio::test]
async fn memory_is_bounded() {
    let mut known = Remembered::default();
    for n in 0..REMEMBERED_MAX + 50 {
        let question = Question {
            host: String::new(),
            public_key: String::new(),
            user_id: n.to_string(),
            wanted: Vec::new(),
        };
        known.put(question, Arc::default(), NOW);
    }
    assert_eq!(known.answers.len(), REMEMBERED_MAX);
    assert_eq!(known.order.len(), REMEMBERED_MAX);
}

#[tokio::test]
async fn trouble_is_told_without_ids_and_not_remembered() {
    let refused =
        r#"{"errors":[{"message":"u-1","extensions":{"code":"INVALID_IDENTIFIER_EXCEPTION"}}]}"#;
    let (lookup, _, _) = lookup([
        Err(SendErrorKind::Timeout),
        Ok((503, String::new())),
        Ok((200, "<html>".to_owned())),
        Ok((200, "{}".to_owned())),
        Ok((200, refused.to_owned())),
        of(&[("a", "qualified")]),
    ]);
    let wanted = ["a".to_owned()];
    for why in [
        "ODP did not answer (timeout)",
        "ODP answered with status 503",
        "ODP's answer is not JSON",
        "ODP's answer has no audiences",
        "ODP refused the question (INVALID_IDENTIFIER_EXCEPTION)",
    ] {
        let told = lookup.qualified(&odp(), &wanted, "u-1", Caching::Use).await;
        assert_eq!(told, Err(why.to_owned()));
    }
    let segments = lookup.qualified(&odp(), &wanted, "u-1", Caching::Use).await;
    assert_eq!(&*segments.expect("segments"), ["a".to_owned()]);
}
