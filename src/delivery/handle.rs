//! What admin and webhooks may ask of delivery: status, resume, another look at the datafile, a test event.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::status::Status;
use super::worker::Order;
use super::{Pipeline, Shared, mask, read};
use crate::blueprint::{ConfigValue, Mapping, PartResult, Request, Table, Tables};
use crate::event::{Event, Kind};
use crate::logbook::Attempt;
use crate::registry::{Integration, Rehearsal};
use crate::secret::Secret;
use crate::vendor::optimizely::webhook::{self, Notice, NoticeError};
use crate::vendor::refresh;

/// Name of a test event where any will do.
const TEST_NAME: &str = "aqueduct test";

/// Delivery's end for others. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Shared,
    syncs: mpsc::UnboundedSender<oneshot::Sender<()>>,
}

/// A test event's way: what was sent and what came back.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct Trial {
    /// Name of the request in the blueprint.
    pub request: String,
    /// HTTP method.
    pub method: String,
    /// Where it went, secrets masked.
    pub url: String,
    /// Headers sent, secret values masked.
    pub headers: Vec<(String, String)>,
    /// Body sent, secrets masked.
    pub body: String,
    /// Status answered; none when there was no answer.
    pub status: Option<u16>,
    /// The answer's body (capped), or the failure in words.
    pub answer: String,
    /// How it is read: `delivered`, `retry`, `bisect`, `reject`, `pause`, `skipped`, `missing`.
    pub verdict: String,
    /// Milliseconds from sending to the end of the answer.
    pub took_ms: u64,
}

/// A test event that could not be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrialError {
    /// No such integration.
    #[error("no such integration")]
    Unknown,
    /// The vendor wants an event key it knows, and none was given or it is not one.
    #[error("{}", which_key(.given.as_deref(), .known))]
    Key {
        /// What was given.
        given: Option<String>,
        /// What there is.
        known: Vec<String>,
    },
    /// The tables the blueprint needs were never read.
    #[error("the datafile was not read yet: {0}")]
    NoTables(String),
    /// The blueprint makes no request of the test event.
    #[error("the blueprint sends nothing for the test event: {0}")]
    NotMapped(String),
}

fn which_key(given: Option<&str>, known: &[String]) -> String {
    let list = match known {
        [] => "the datafile has no events: make one in Optimizely first".to_owned(),
        known => {
            let shown: Vec<&str> = known.iter().take(20).map(String::as_str).collect();
            let more = known.len().saturating_sub(shown.len());
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            format!("there are: {}{more}", shown.join(", "))
        }
    };
    match given {
        None => format!("name the event key to test with; {list}"),
        Some(key) => format!("no event key `{key}`; {list}"),
    }
}

/// A webhook that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// No such Optimizely integration.
    #[error("no such Optimizely integration")]
    Unknown,
    /// The integration has no `webhook_secret`, so nothing can be believed.
    #[error(
        "the integration has no webhook_secret: set it to the secret Optimizely shows for this webhook"
    )]
    NoSecret,
    /// Not signed with that secret, or not JSON.
    #[error(transparent)]
    Notice(#[from] NoticeError),
}

impl Handle {
    pub(super) fn new(shared: Shared, syncs: mpsc::UnboundedSender<oneshot::Sender<()>>) -> Self {
        Self { shared, syncs }
    }

    /// Brings the running pipelines in step with the view; returns when every installed integration has its feed.
    /// Call it after publishing a view and before telling the caller that something is installed.
    pub async fn sync(&self) {
        let (sender, receiver) = oneshot::channel();
        if self.syncs.send(sender).is_ok() {
            let _ = receiver.await;
        }
    }

    /// How an integration's pipeline is doing, the age of its backlog included.
    pub async fn status(&self, integration: &str) -> Option<Status> {
        let mut status = self.snapshot(integration)?;
        if let Ok(oldest) = self.shared.journal.oldest_pending_ms(integration).await {
            status.oldest_pending_ms = oldest;
        }
        Some(status)
    }

    /// How an integration's pipeline is doing, as it last said itself.
    #[must_use]
    pub fn snapshot(&self, integration: &str) -> Option<Status> {
        let pipeline = self.pipeline(integration)?;
        let mut status = pipeline.status.lock().clone();
        status.documents = pipeline
            .refresh
            .as_ref()
            .map(refresh::Refresh::status)
            .unwrap_or_default();
        Some(status)
    }

    /// Has a paused or waiting pipeline try again at once. (An admin's own pause ends by changing the integration.)
    #[must_use]
    pub fn resume(&self, integration: &str) -> bool {
        self.pipeline(integration)
            .is_some_and(|pipeline| pipeline.orders.send(Order::Resume).is_ok())
    }

    /// Reads an integration's datafile again, now and a few times more.
    #[must_use]
    pub fn poke_datafile(&self, integration: &str) -> bool {
        let refresh = self.pipeline(integration).and_then(|found| found.refresh);
        refresh.inspect(|refresh| refresh.poke(None)).is_some()
    }

    /// Tables in use, for showing what an event would become.
    #[must_use]
    pub fn tables(&self, integration: &str) -> Arc<Tables> {
        self.pipeline(integration)
            .and_then(|pipeline| pipeline.refresh)
            .map(|refresh| refresh.tables().borrow().clone())
            .unwrap_or_default()
    }

    /// Takes Optimizely's "datafile updated" webhook: body as received, `X-Hub-Signature` as sent.
    /// Returns whether it made us look; answer 204 either way.
    ///
    /// # Errors
    /// When it is not for us or not believed.
    pub fn optimizely_webhook(
        &self,
        integration: &str,
        signature: Option<&str>,
        body: &[u8],
    ) -> Result<bool, WebhookError> {
        let pipeline = self
            .pipeline(integration)
            .filter(|pipeline| pipeline.integration.vendor == "optimizely")
            .ok_or(WebhookError::Unknown)?;
        let config = &pipeline.integration.config;
        let secret = match config.get("webhook_secret") {
            Some(ConfigValue::Secret(secret)) if !secret.expose().is_empty() => secret,
            _ => return Err(WebhookError::NoSecret),
        };
        let text = |key: &str| match config.get(key) {
            Some(ConfigValue::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        let project = text("project_id").unwrap_or_default();
        match webhook::read(secret, project, signature, body)? {
            Notice::Ignored => Ok(false),
            Notice::Updated {
                revision,
                environment,
            } => {
                // One webhook per project tells of every environment.
                let ours = match (text("environment"), environment) {
                    (Some(ours), Some(theirs)) => ours.eq_ignore_ascii_case(&theirs),
                    _ => true,
                };
                if ours && let Some(refresh) = &pipeline.refresh {
                    refresh.poke(revision);
                }
                Ok(ours)
            }
        }
    }

    /// Sends one marked event, outside the journal, and shows what was sent and answered. `key`: an event the vendor
    /// knows, where that matters; left out, the error says which there are.
    ///
    /// # Errors
    /// When nothing can be sent. A vendor's refusal is no error: it is what a test is for.
    pub async fn test(
        &self,
        integration: &str,
        key: Option<&str>,
    ) -> Result<Vec<Trial>, TrialError> {
        let pipeline = self.pipeline(integration).ok_or(TrialError::Unknown)?;
        let name = self.test_name(&pipeline, key).await?;
        let integration = pipeline.integration.clone();
        let tables = match &pipeline.refresh {
            Some(refresh) => refresh.tables().borrow().clone(),
            None => Arc::default(),
        };
        let event = test_event(&name, self.shared.clock.now_ms());
        let mut trials = Vec::new();
        for request in test_requests(&integration, &event, &tables)? {
            trials.push(self.try_request(&integration, request).await);
        }
        Ok(trials)
    }

    async fn test_name(
        &self,
        pipeline: &Pipeline,
        key: Option<&str>,
    ) -> Result<String, TrialError> {
        let fallback = || key.unwrap_or(TEST_NAME).to_owned();
        let vendor = crate::vendor::by_name(&pipeline.integration.vendor);
        let (Some(vendor), Some(refresh)) = (vendor, &pipeline.refresh) else {
            return Ok(fallback());
        };
        let (dir, id) = (
            self.shared.options.datafiles_dir.clone(),
            pipeline.integration.id.clone(),
        );
        let documents = tokio::task::spawn_blocking(move || refresh::last_documents(&dir, &id))
            .await
            .unwrap_or_default();
        if documents.is_empty() {
            let fault = refresh
                .status()
                .into_iter()
                .find_map(|document| document.fault);
            return Err(TrialError::NoTables(
                fault.unwrap_or_else(|| "try again in a moment".to_owned()),
            ));
        }
        chosen_key(vendor, &documents, key)
    }

    /// The same as [`Handle::test`] for an integration that is not installed.
    ///
    /// # Errors
    /// When nothing can be sent.
    pub async fn rehearse(
        &self,
        rehearsal: &Rehearsal,
        key: Option<&str>,
    ) -> Result<Vec<Trial>, TrialError> {
        let integration = &rehearsal.integration;
        let mut tables = Tables::default();
        for (name, document) in &rehearsal.documents {
            let table =
                Table::read(&integration.plan, name, document).map_err(TrialError::NoTables)?;
            tables.tables.insert(name.clone(), Arc::new(table));
        }
        let documents: Vec<Value> = rehearsal
            .documents
            .iter()
            .map(|(_, document)| document.clone())
            .collect();
        let name = match crate::vendor::by_name(&integration.vendor) {
            Some(vendor) if !documents.is_empty() => chosen_key(vendor, &documents, key)?,
            _ => key.unwrap_or(TEST_NAME).to_owned(),
        };
        let event = test_event(&name, self.shared.clock.now_ms());
        let mut trials = Vec::new();
        for request in test_requests(integration, &event, &tables)? {
            trials.push(self.try_request(integration, request).await);
        }
        Ok(trials)
    }

    async fn try_request(
        &self,
        integration: &Integration,
        Probe {
            index,
            mut request,
            item,
        }: Probe,
    ) -> Trial {
        let vendor = crate::vendor::by_name(&integration.vendor);
        for (name, value) in vendor.map_or(&[][..], |vendor| vendor.test_headers()) {
            request
                .headers
                .push(((*name).to_owned(), Secret::new(*value)));
        }
        let at_ms = self.shared.clock.now_ms();
        let timeout = Duration::from_millis(integration.tuning.timeout_ms);
        let result = self.shared.client.send(&request, timeout).await;
        let (status, answer, verdict, took, error) = match &result {
            Ok(answer) => {
                let heard = read::answer(&integration.plan, index, answer, &[&item], None, 1);
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                let word = read::word(&heard.verdict);
                (Some(answer.status), text, word, answer.took, None)
            }
            Err(error) => {
                let kind = error.kind.as_str().to_owned();
                (None, error.message.clone(), "retry", error.took, Some(kind))
            }
        };
        let answer = mask(integration, &answer);
        let trial = Trial {
            request: request.name.clone(),
            method: request.method.clone(),
            url: mask(integration, request.url.expose()),
            headers: request
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), shown(integration, name, value)))
                .collect(),
            body: mask(integration, &String::from_utf8_lossy(&request.body)),
            status,
            answer: answer.clone(),
            verdict: verdict.to_owned(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        };
        self.shared.logbook.attempt(Attempt {
            integration: integration.id.clone(),
            request: request.name,
            at_ms,
            took_ms: u32::try_from(took.as_millis()).unwrap_or(u32::MAX),
            attempt: 1,
            trigger: "test",
            seqs: Vec::new(),
            url: trial.url.clone(),
            method: request.method,
            request_body: trial.body.clone().into(),
            status,
            response_body: answer.into(),
            verdict,
            error,
        });
        trial
    }

    fn pipeline(&self, integration: &str) -> Option<Pipeline> {
        self.shared.pipelines.lock().get(integration).cloned()
    }
}

/// The event key to test with: any name when the vendor's documents know none, else one of theirs.
fn chosen_key(
    vendor: &dyn crate::vendor::Vendor,
    documents: &[Value],
    key: Option<&str>,
) -> Result<String, TrialError> {
    let known: Option<Vec<String>> = documents
        .iter()
        .filter_map(|document| vendor.event_keys(document))
        .reduce(|mut all, more| {
            all.extend(more);
            all
        });
    match (known, key) {
        (None, key) => Ok(key.unwrap_or(TEST_NAME).to_owned()),
        (Some(known), Some(key)) if known.iter().any(|k| k == key) => Ok(key.to_owned()),
        (Some(known), key) => Err(TrialError::Key {
            given: key.map(str::to_owned),
            known,
        }),
    }
}

/// A header's value for people: credentials are masked whatever they are made of.
fn shown(integration: &Integration, name: &str, value: &Secret) -> String {
    let name = name.to_ascii_lowercase();
    let secret = ["authorization", "key", "token", "secret", "cookie"]
        .iter()
        .any(|word| name.contains(word));
    if secret {
        value.hint()
    } else {
        mask(integration, value.expose())
    }
}

/// A request made of a test event.
struct Probe {
    index: usize,
    request: Request,
    item: Bytes,
}

/// An event nobody posted, recognisable as such at the vendor.
fn test_event(name: &str, now_ms: crate::clock::Millis) -> Event {
    let message_id = format!("aqueduct-test-{now_ms}");
    let source = "aqueduct".to_owned();
    let event_id: Uuid = crate::event::event_id(&source, &message_id);
    let at = jiff::Timestamp::from_millisecond(now_ms)
        .unwrap_or_default()
        .to_string();
    let fields = json!({
        "type": "track",
        "eventId": event_id.to_string(),
        "source": source,
        "messageId": message_id,
        "receivedAt": at,
        "timestamp": at,
        "userId": "aqueduct-test",
        "event": name,
        "properties": {"aqueduct_test": true},
    });
    let fields: Map<String, Value> = match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    Event {
        kind: Kind::Track,
        event_id,
        source,
        message_id,
        received_at_ms: now_ms,
        timestamp_ms: now_ms,
        fields,
    }
}

fn test_requests(
    integration: &Integration,
    event: &Event,
    tables: &Tables,
) -> Result<Vec<Probe>, TrialError> {
    let parts = match integration.plan.map(event, tables) {
        Mapping::Skipped(reason) => return Err(TrialError::NotMapped(reason.to_owned())),
        Mapping::Parts(parts) => parts,
    };
    let mut requests = Vec::new();
    let mut why = String::from("no entry of the blueprint names it");
    for part in parts {
        match part.result {
            PartResult::Item { json, .. } => {
                let made = integration.plan.assemble(part.request, &[&json], tables);
                match made {
                    Ok(request) => requests.push(Probe {
                        index: part.request,
                        request,
                        item: json,
                    }),
                    Err(error) => why = error,
                }
            }
            PartResult::Skipped { reason } => why = reason,
            PartResult::Refused { detail, .. } | PartResult::Held { detail, .. } => why = detail,
        }
    }
    if requests.is_empty() {
        return Err(TrialError::NotMapped(why));
    }
    Ok(requests)
}
