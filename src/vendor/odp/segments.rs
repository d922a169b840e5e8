//! Which segments a user is in: asked of ODP over GraphQL, remembered for ten minutes.
//!
//! `POST {host}/v3/graphql` with `x-api-key`, as the Feature Experimentation SDKs ask (JavaScript SDK 6.6.1, go-sdk
//! `pkg/odp/segment`), but with the ids as GraphQL variables: the SDKs write them into the query's text.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::blueprint::Request;
use crate::clock::{Millis, SharedClock};
use crate::datafile::Odp;
use crate::secret::Secret;
use crate::vendor::http::{Client, SendErrorKind};

/// Answers remembered, and for how long: the SDKs' own numbers.
const REMEMBERED_MAX: usize = 10_000;
const REMEMBERED_MS: Millis = 600_000;

/// An app waits for this answer: rather none than a late one.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Questions under way at once; beyond, users are decided without their segments.
const UNDER_WAY_MAX: usize = 64;

/// User ids that start so are ODP's own visitor ids.
const VUID: &str = "vuid_";

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The body, at most as long as allowed.
    pub body: Bytes,
    /// There was more of it.
    pub cut: bool,
}

/// Makes a request; the outbound client, or a test's.
pub trait Asker: Send + Sync {
    /// Sends it.
    fn ask(
        &self,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Reply, SendErrorKind>>;
}

impl Asker for Client {
    fn ask(
        &self,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Reply, SendErrorKind>> {
        Box::pin(async move {
            let answer = self.send(&request, timeout).await;
            let answer = answer.map_err(|error| error.kind)?;
            Ok(Reply {
                status: answer.status,
                body: answer.body,
                cut: answer.cut,
            })
        })
    }
}

/// How what is remembered is to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// Asked only for what is not remembered.
    Use,
    /// Neither read nor written.
    Ignore,
    /// Forgotten first.
    Reset,
}

/// Asks for segments and remembers answers.
pub struct Lookup {
    asker: Arc<dyn Asker>,
    clock: SharedClock,
    known: Mutex<Remembered>,
    room: Semaphore,
}

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookup").finish_non_exhaustive()
    }
}

/// Whose answer, from whom: another account knows other things of the same user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    host: String,
    public_key: String,
    user_id: String,
    wanted: Vec<String>,
}

#[derive(Debug, Default)]
struct Remembered {
    answers: HashMap<Question, (Millis, Arc<[String]>)>,
    /// In the order they came, which is the order they grow old in.
    order: VecDeque<(Millis, Question)>,
}

impl Remembered {
    fn get(&self, question: &Question, now_ms: Millis) -> Option<Arc<[String]>> {
        let (at_ms, segments) = self.answers.get(question)?;
        (now_ms - at_ms < REMEMBERED_MS).then(|| segments.clone())
    }

    fn put(&mut self, question: Question, segments: Arc<[String]>, now_ms: Millis) {
        self.answers.insert(question.clone(), (now_ms, segments));
        self.order.push_back((now_ms, question));
        while self.order.len() > REMEMBERED_MAX
            || self
                .order
                .front()
                .is_some_and(|(at_ms, _)| now_ms - at_ms >= REMEMBERED_MS)
        {
            let Some((at_ms, oldest)) = self.order.pop_front() else {
                return;
            };
            // It may have been asked anew since; then the newer answer stays.
            if self
                .answers
                .get(&oldest)
                .is_some_and(|(newest_ms, _)| *newest_ms == at_ms)
            {
                self.answers.remove(&oldest);
            }
        }
    }
}

impl Lookup {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(asker: Arc<dyn Asker>, clock: SharedClock) -> Self {
        Self {
            asker,
            clock,
            known: Mutex::default(),
            room: Semaphore::new(UNDER_WAY_MAX),
        }
    }

    /// Those of `wanted` the user is certainly in.
    ///
    /// # Errors
    /// In words, why nobody knows. No key and no id is in them.
    pub async fn qualified(
        &self,
        odp: &Odp,
        wanted: &[String],
        user_id: &str,
        caching: Caching,
    ) -> Result<Arc<[String]>, String> {
        let question = Question {
            host: odp.host.clone(),
            public_key: odp.public_key.clone(),
            user_id: user_id.to_owned(),
            wanted: wanted.to_vec(),
        };
        match caching {
            Caching::Reset => *self.known.lock() = Remembered::default(),
            Caching::Ignore => {}
            Caching::Use => {
                let now_ms = self.clock.now_ms();
                if let Some(segments) = self.known.lock().get(&question, now_ms) {
                    return Ok(segments);
                }
            }
        }
        let Ok(_place) = self.room.try_acquire() else {
            return Err("too many questions to ODP are under way".to_owned());
        };
        let answer = self
            .asker
            .ask(request(odp, wanted, user_id), TIMEOUT)
            .await
            .map_err(|kind| format!("ODP did not answer ({})", kind.as_str()))?;
        let segments: Arc<[String]> = read(&answer)?.into();
        if caching != Caching::Ignore {
            let now_ms = self.clock.now_ms();
            self.known.lock().put(question, segments.clone(), now_ms);
        }
        Ok(segments)
    }
}

fn request(odp: &Odp, wanted: &[String], user_id: &str) -> Request {
    let identifier = if user_id.starts_with(VUID) {
        "vuid"
    } else {
        "fs_user_id"
    };
    let body = json!({
        "query": format!(
            "query($userId: String, $audiences: [String]) {{customer({identifier}: $userId) \
             {{audiences(subset: $audiences) {{edges {{node {{name state}}}}}}}}}}"
        ),
        "variables": { "userId": user_id, "audiences": wanted },
    });
    Request {
        name: "segments".to_owned(),
        method: "POST".to_owned(),
        url: Secret::new(format!("{}/v3/graphql", odp.host.trim_end_matches('/'))),
        headers: vec![
            ("content-type".to_owned(), Secret::new("application/json")),
            ("x-api-key".to_owned(), Secret::new(odp.public_key.as_str())),
        ],
        body: body.to_string().into_bytes().into(),
    }
}

/// Reads an answer: names of the nodes whose state is `qualified`.
fn read(answer: &Reply) -> Result<Vec<String>, String> {
    if !(200..300).contains(&answer.status) {
        return Err(format!("ODP answered with status {}", answer.status));
    }
    if answer.cut {
        return Err("ODP's answer is too long".to_owned());
    }
    let document: Value =
        serde_json::from_slice(&answer.body).map_err(|_| "ODP's answer is not JSON".to_owned())?;
    if let Some(error) = document.pointer("/errors/0") {
        let code = ["code", "classification"]
            .iter()
            .find_map(|key| error.get("extensions")?.get(key)?.as_str())
            .unwrap_or("unknown");
        let code: String = code.chars().take(60).collect();
        return Err(format!("ODP refused the question ({code})"));
    }
    let edges = document
        .pointer("/data/customer/audiences/edges")
        .and_then(Value::as_array)
        .ok_or("ODP's answer has no audiences")?;
    let qualified = edges.iter().filter_map(|edge| {
        let node = edge.get("node")?;
        let name = node.get("name")?.as_str()?;
        (node.get("state")?.as_str()? == "qualified").then(|| name.to_owned())
    });
    Ok(qualified.collect())
}

#[cfg(test)]
mod tests;
