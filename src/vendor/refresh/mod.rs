//! Keeps the remote tables of one plan fresh: conditional GETs, last good copy on disk, swap only what checks.
//!
//! Knows no journal and no delivery. [`Refresher::step`] does everything due at a moment and says when to come
//! back; [`Refresher::run`] is that in a loop. Readers hold a `watch` of the tables and a [`Refresh`] handle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::Vendor;
use super::http::{Client, Conditions};
use crate::blueprint::{Config, Plan, Table, Tables};
use crate::clock::{Millis, SharedClock};
use crate::datafile::{self, Datafile};
use crate::metrics;
use crate::secret::Secret;

mod schedule;
mod shelf;

use schedule::{Reading, Schedule};

/// Time for reading a document.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Larger documents are refused.
const DOCUMENT_BYTES_MAX: usize = 20 << 20;

/// The copy on disk is rewritten for a mere confirmation at most this often.
const CONFIRM_EVERY_MS: Millis = 600_000;

/// Whose tables, and where from.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The integration's id.
    pub integration: String,
    /// Its plan.
    pub plan: Arc<Plan>,
    /// Its config.
    pub config: Config,
    /// Its vendor, where there is code for it.
    pub vendor: Option<&'static dyn Vendor>,
    /// Folder of the copies, `<data_dir>/datafiles`.
    pub dir: PathBuf,
    /// Where datafiles are published for deciding flags.
    pub datafiles: datafile::Shared,
}

impl Subject {
    /// Publishes the datafile of a document in use, or takes back the one there was.
    fn publish(&self, datafile: Option<Datafile>) {
        match datafile {
            Some(datafile) => self.datafiles.publish(datafile::Known {
                integration: self.integration.clone(),
                sdk_key_tail: self
                    .vendor
                    .map(|vendor| vendor.sdk_key_tail(&self.config))
                    .unwrap_or_default(),
                datafile: Arc::new(datafile),
            }),
            None => self.datafiles.remove(&self.integration),
        }
    }
}

/// How one table document is doing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct DocumentStatus {
    /// The tables read from it.
    pub tables: Vec<String>,
    /// Its revision, when it says one.
    pub revision: Option<String>,
    /// When it was last read or found unchanged (Unix ms); none when it never was.
    pub confirmed_at_ms: Option<Millis>,
    /// When the content in use was first read.
    pub changed_at_ms: Option<Millis>,
    /// Why the last reading was not used.
    pub fault: Option<String>,
}

/// Readers' end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Refresh {
    tables: watch::Receiver<Arc<Tables>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    orders: Mutex<Vec<Order>>,
    wake: Notify,
    status: Mutex<Vec<DocumentStatus>>,
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Poke(Option<u64>),
    Wanted,
}

impl Refresh {
    /// The tables, as of now and as they change.
    #[must_use]
    pub fn tables(&self) -> watch::Receiver<Arc<Tables>> {
        self.tables.clone()
    }

    /// Something is new (of that revision, if known): read at once and a few times more until it is there.
    pub fn poke(&self, revision: Option<u64>) {
        self.order(Order::Poke(revision));
    }

    /// An event needs a row that is not there: read soon, but not again and again.
    pub fn wanted(&self) {
        self.order(Order::Wanted);
    }

    /// How each document is doing.
    #[must_use]
    pub fn status(&self) -> Vec<DocumentStatus> {
        self.shared.status.lock().clone()
    }

    /// Tables that somebody else sets, for tests of readers.
    #[cfg(test)]
    pub(crate) fn fixed(tables: watch::Receiver<Arc<Tables>>) -> Self {
        Self {
            tables,
            shared: Arc::default(),
        }
    }

    fn order(&self, order: Order) {
        let mut orders = self.shared.orders.lock();
        // Nobody takes them while a reading hangs: keep the list short, the last ones say it all.
        if orders.len() >= 16 {
            orders.remove(0);
        }
        orders.push(order);
        drop(orders);
        self.shared.wake.notify_one();
    }
}

/// One document and what is known of it.
#[derive(Debug)]
struct Document {
    url: Secret,
    names: Vec<String>,
    schedule: Schedule,
    copy: Option<shelf::Copy>,
    saved_confirmed_at_ms: Millis,
    revision: Option<String>,
    fault: Option<String>,
}

/// Keeps the tables fresh.
#[derive(Debug)]
pub struct Refresher {
    subject: Subject,
    client: Client,
    clock: SharedClock,
    chance: StdRng,
    documents: Vec<Document>,
    tables: watch::Sender<Arc<Tables>>,
    shared: Arc<Shared>,
}

/// A reading that may be used.
struct Fresh {
    tables: BTreeMap<String, Arc<Table>>,
    json: Map<String, Value>,
    revision: Option<String>,
    datafile: Option<Datafile>,
}

impl Refresher {
    /// Takes up the last good copy. None when the plan reads no tables.
    #[must_use]
    pub fn load(
        subject: Subject,
        client: Client,
        clock: SharedClock,
        seed: u64,
    ) -> Option<(Self, Refresh)> {
        let now_ms = clock.now_ms();
        let copies = shelf::load(&shelf::path(&subject.dir, &subject.integration));
        let mut tables = Tables::default();
        let mut documents: Vec<Document> = Vec::new();
        for source in subject.plan.tables() {
            let url = source.url.expose();
            if let Some(known) = documents.iter_mut().find(|doc| doc.url.expose() == url) {
                known.names.push(source.name.clone());
            } else {
                documents.push(Document {
                    url: source.url.clone(),
                    names: vec![source.name.clone()],
                    schedule: Schedule::new(source.refresh, now_ms),
                    copy: None,
                    saved_confirmed_at_ms: 0,
                    revision: None,
                    fault: None,
                });
            }
        }
        if documents.is_empty() {
            return None;
        }
        let owner = owner(&subject);
        let mut datafile = None;
        for document in &mut documents {
            let address = shelf::address(document.url.expose());
            let Some(copy) = copies
                .iter()
                .find(|copy| copy.address == address && copy.owner == owner)
            else {
                continue;
            };
            // Read again from the document: the blueprint may want other columns than when it was stored.
            match digest(
                &subject,
                &document.names,
                &copy.document,
                &copy.tables,
                copy.changed_at_ms,
            ) {
                Ok(fresh) => {
                    tables.tables.extend(fresh.tables);
                    datafile = fresh.datafile.or(datafile);
                    document.revision = fresh.revision;
                    document.saved_confirmed_at_ms = copy.confirmed_at_ms;
                    document.copy = Some(copy.clone());
                }
                Err(fault) => document.fault = Some(fault.text),
            }
        }
        subject.publish(datafile);
        let (sender, receiver) = watch::channel(Arc::new(tables));
        let shared = Arc::new(Shared::default());
        let refresher = Self {
            subject,
            client,
            clock,
            chance: StdRng::seed_from_u64(seed),
            documents,
            tables: sender,
            shared: shared.clone(),
        };
        refresher.publish_status();
        Some((
            refresher,
            Refresh {
                tables: receiver,
                shared,
            },
        ))
    }

    /// Reads what is due; says when the next reading is.
    pub async fn step(&mut self) -> Millis {
        self.take_orders();
        for index in 0..self.documents.len() {
            let now_ms = self.clock.now_ms();
            if self
                .documents
                .get(index)
                .is_some_and(|document| document.schedule.next_ms() <= now_ms)
            {
                self.read(index).await;
            }
        }
        self.publish_status();
        self.documents
            .iter()
            .map(|document| document.schedule.next_ms())
            .min()
            .unwrap_or(Millis::MAX)
    }

    /// Steps until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let shared = self.shared.clone();
        loop {
            let next_ms = tokio::select! {
                () = stop.cancelled() => return,
                next_ms = self.step() => next_ms,
            };
            let wait = u64::try_from(next_ms.saturating_sub(self.clock.now_ms())).unwrap_or(0);
            tokio::select! {
                () = stop.cancelled() => return,
                () = shared.wake.notified() => {}
                // At least a little: a clock that stands still must not make this spin.
                () = tokio::time::sleep(Duration::from_millis(wait.clamp(10, 60_000))) => {}
            }
        }
    }

    fn take_orders(&mut self) {
        let orders = std::mem::take(&mut *self.shared.orders.lock());
        let now_ms = self.clock.now_ms();
        for order in orders {
            for document in &mut self.documents {
                match order {
                    Order::Poke(revision) => document.schedule.poke(now_ms, revision),
                    Order::Wanted => document.schedule.wanted(now_ms),
                }
            }
        }
    }

    async fn read(&mut self, index: usize) {
        let Some(document) = self.documents.get(index) else {
            return;
        };
        let conditions = Conditions {
            etag: document.copy.as_ref().and_then(|copy| copy.etag.clone()),
            last_modified: document
                .copy
                .as_ref()
                .and_then(|copy| copy.last_modified.clone()),
            bearer: self
                .subject
                .vendor
                .and_then(|vendor| vendor.document_token(&self.subject.config)),
        };
        let url = document.url.clone();
        let answer = self
            .client
            .get(url.expose(), &conditions, TIMEOUT, DOCUMENT_BYTES_MAX)
            .await;
        let outcome = match answer {
            Err(error) => Err(Fault::failed(format!(
                "cannot read it ({}): {}",
                error.kind.as_str(),
                error.message
            ))),
            Ok(answer) if answer.status == 304 && document.copy.is_some() => Ok(None),
            Ok(answer) if answer.status == 403 => Err(Fault::failed(
                "status 403: unknown or archived key; check sdk_key and datafile_url".to_owned(),
            )),
            Ok(answer) if !(200..300).contains(&answer.status) => Err(Fault::failed(format!(
                "status {} instead of the document",
                answer.status
            ))),
            Ok(answer) if answer.cut => Err(Fault::refused(format!(
                "it is larger than {} MB",
                DOCUMENT_BYTES_MAX >> 20
            ))),
            Ok(answer) => self.take(index, answer).await.map(Some),
        };
        self.conclude(index, outcome).await;
    }

    /// Parses and checks a new document off the async threads: it may be large.
    async fn take(
        &self,
        index: usize,
        answer: super::http::Answer,
    ) -> Result<(Fresh, shelf::Copy), Fault> {
        let Some(document) = self.documents.get(index) else {
            return Err(Fault::failed("no such document".to_owned()));
        };
        let now_ms = self.clock.now_ms();
        let (subject, names) = (self.subject.clone(), document.names.clone());
        let earlier = document
            .copy
            .as_ref()
            .map(|copy| copy.tables.clone())
            .unwrap_or_default();
        let body = answer.body;
        let (fresh, text) = tokio::task::spawn_blocking(move || {
            let text = std::str::from_utf8(&body)
                .map_err(|error| Fault::refused(format!("it is not UTF-8 text: {error}")))?;
            let fresh = digest(&subject, &names, text, &earlier, now_ms)?;
            Ok((fresh, Arc::<str>::from(text)))
        })
        .await
        .map_err(|error| Fault::failed(format!("reading it failed: {error}")))??;
        let copy = shelf::Copy {
            address: shelf::address(document.url.expose()),
            owner: owner(&self.subject),
            etag: answer.etag,
            last_modified: answer.last_modified,
            confirmed_at_ms: now_ms,
            changed_at_ms: now_ms,
            tables: fresh.json.clone(),
            document: text,
        };
        Ok((fresh, copy))
    }

    async fn conclude(
        &mut self,
        index: usize,
        outcome: Result<Option<(Fresh, shelf::Copy)>, Fault>,
    ) {
        let now_ms = self.clock.now_ms();
        let chance: f64 = self.chance.random();
        let id = self.subject.integration.clone();
        let Some(document) = self.documents.get_mut(index) else {
            return;
        };
        let mut save = false;
        let (reading, label) = match outcome {
            Ok(None) => {
                if let Some(copy) = &mut document.copy {
                    copy.confirmed_at_ms = now_ms;
                }
                document.fault = None;
                save = now_ms - document.saved_confirmed_at_ms >= CONFIRM_EVERY_MS;
                (Reading::Unchanged, "unchanged")
            }
            Ok(Some((fresh, mut copy))) => {
                let same = document
                    .copy
                    .as_ref()
                    .is_some_and(|old| old.document == copy.document);
                document.fault = None;
                if same {
                    // The same text again, from a server without conditional answers.
                    copy.changed_at_ms = document
                        .copy
                        .as_ref()
                        .map_or(now_ms, |old| old.changed_at_ms);
                    document.copy = Some(copy);
                    save = now_ms - document.saved_confirmed_at_ms >= CONFIRM_EVERY_MS;
                    (Reading::Unchanged, "unchanged")
                } else {
                    if let Some(old) = &document.revision {
                        metrics::datafile_info(&id, old).set(0.0);
                    }
                    document.revision.clone_from(&fresh.revision);
                    document.copy = Some(copy);
                    save = true;
                    tracing::info!(
                        integration = id,
                        revision = document.revision.as_deref().unwrap_or("?"),
                        "datafile updated"
                    );
                    if fresh.datafile.is_some() {
                        self.subject.publish(fresh.datafile);
                    }
                    self.tables.send_modify(|tables| {
                        let mut all = tables.tables.clone();
                        all.extend(fresh.tables);
                        *tables = Arc::new(Tables { tables: all });
                    });
                    (
                        Reading::Updated(number(fresh.revision.as_deref())),
                        "updated",
                    )
                }
            }
            Err(fault) => {
                if document.fault.as_ref() != Some(&fault.text) {
                    tracing::warn!(
                        integration = id,
                        why = fault.text,
                        kept = document.copy.is_some(),
                        "datafile not updated"
                    );
                }
                document.fault = Some(fault.text);
                (Reading::Failed, fault.label)
            }
        };
        metrics::datafile_fetches(&id, label).increment(1);
        if let Some(revision) = &document.revision {
            metrics::datafile_info(&id, revision).set(1.0);
        }
        let current = number(document.revision.as_deref());
        document.schedule.read(now_ms, reading, current, chance);
        if save {
            document.saved_confirmed_at_ms = now_ms;
            self.save().await;
        }
    }

    async fn save(&self) {
        let path = shelf::path(&self.subject.dir, &self.subject.integration);
        let copies: Vec<shelf::Copy> = self
            .documents
            .iter()
            .filter_map(|document| document.copy.clone())
            .collect();
        let saved = tokio::task::spawn_blocking(move || {
            shelf::save(&path, copies.iter()).map_err(|error| (path, error))
        })
        .await;
        if let Ok(Err((path, error))) = saved {
            tracing::warn!(path = %path.display(), %error, "cannot keep a copy of the datafile");
        }
    }

    fn publish_status(&self) {
        let status = self
            .documents
            .iter()
            .map(|document| DocumentStatus {
                tables: document.names.clone(),
                revision: document.revision.clone(),
                confirmed_at_ms: document.copy.as_ref().map(|copy| copy.confirmed_at_ms),
                changed_at_ms: document.copy.as_ref().map(|copy| copy.changed_at_ms),
                fault: document.fault.clone(),
            })
            .collect();
        *self.shared.status.lock() = status;
    }
}

/// Why a document was not taken, and how that is counted.
struct Fault {
    text: String,
    label: &'static str,
}

impl Fault {
    fn failed(text: String) -> Self {
        Self {
            text,
            label: "failed",
        }
    }

    fn refused(text: String) -> Self {
        Self {
            text,
            label: "refused",
        }
    }
}

fn owner(subject: &Subject) -> String {
    subject
        .vendor
        .map(|vendor| vendor.owner(&subject.config))
        .unwrap_or_default()
}

fn number(revision: Option<&str>) -> Option<u64> {
    revision?.parse().ok()
}

/// Checks a document and reads its tables on top of the earlier ones.
fn digest(
    subject: &Subject,
    names: &[String],
    text: &str,
    earlier: &Map<String, Value>,
    now_ms: Millis,
) -> Result<Fresh, Fault> {
    let document: Value = serde_json::from_str(text)
        .map_err(|error| Fault::refused(format!("it is not JSON: {error}")))?;
    if let Some(vendor) = subject.vendor {
        vendor
            .check_document(&subject.config, &document)
            .map_err(|faults| {
                let said: Vec<_> = faults.into_iter().map(|fault| fault.message).collect();
                Fault::refused(said.join("; "))
            })?;
    }
    let datafile = subject
        .vendor
        .and_then(|vendor| vendor.datafile(&document))
        .transpose()
        .map_err(|error| Fault::refused(error.to_string()))?;
    let mut tables = BTreeMap::new();
    let mut json = Map::new();
    for name in names {
        let newer = Table::read(&subject.plan, name, &document)
            .map_err(|error| Fault::refused(format!("table `{name}`: {error}")))?;
        let table = match earlier.get(name).map(Table::from_json) {
            Some(Ok(old)) => old.updated(newer, now_ms),
            _ => newer,
        };
        json.insert(name.clone(), table.to_json());
        tables.insert(name.clone(), Arc::new(table));
    }
    Ok(Fresh {
        tables,
        json,
        revision: subject
            .vendor
            .and_then(|vendor| vendor.document_revision(&document)),
        datafile,
    })
}

/// The documents last read for an integration (for choosing a test event); empty when none was.
#[must_use]
pub fn last_documents(dir: &Path, integration: &str) -> Vec<Value> {
    shelf::load(&shelf::path(dir, integration))
        .into_iter()
        .filter_map(|copy| serde_json::from_str(&copy.document).ok())
        .collect()
}

/// Forgets the copies of a removed integration.
pub fn forget(dir: &Path, integration: &str) {
    let path = shelf::path(dir, integration);
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a datafile copy");
    }
}
