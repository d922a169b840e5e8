//! What is measured every few seconds: from the published picture, the journal's books and the pipelines' own words.
//! Reads only, and nothing that a delivery waits for.

use std::collections::BTreeSet;

use super::watch::Measure;
use super::{Parts, Pipelines};
use crate::clock::Millis;
use crate::delivery::status::{State, Status};
use crate::journal::{Journal, JournalError, Seq};
use crate::registry::alerts::Rule;
use crate::registry::picture::Installed;

/// When an event last came, as far as the journal's end tells.
#[derive(Debug, Clone)]
pub(super) struct Traffic {
    end: Seq,
    /// Sources whose silence stands in the metrics.
    sources: BTreeSet<String>,
    at_ms: Option<Millis>,
    started_ms: Millis,
}

impl Traffic {
    /// Takes up where the process before ended: its last record still says when it came.
    pub(super) async fn begin(journal: &Journal, now_ms: Millis) -> Self {
        let end = *journal.end().borrow();
        let last = match end.checked_sub(1) {
            None => None,
            Some(last) => journal.get(last).await.ok().flatten(),
        };
        Self {
            end,
            sources: BTreeSet::new(),
            // Trimmed already: then it is unknown how long ago, but not whether there ever was one.
            at_ms: last
                .map(|entry| entry.at_ms)
                .or((end > 0).then_some(now_ms)),
            started_ms: now_ms,
        }
    }

    fn look(&mut self, journal: &Journal, now_ms: Millis) -> Option<Millis> {
        let end = *journal.end().borrow();
        if end != self.end {
            self.end = end;
            self.at_ms = Some(now_ms);
        }
        self.at_ms
    }
}

/// All there is to measure now.
///
/// # Errors
/// When the journal cannot be read: then nothing is known, and nothing is told.
pub(super) async fn all(
    parts: &Parts,
    traffic: &mut Traffic,
    now_ms: Millis,
) -> Result<Vec<Measure>, JournalError> {
    let mut found = Vec::new();
    let picture = parts.registry.picture();
    let books = parts.journal.ledger().await?;
    for installed in &picture.integrations {
        let measure = |rule, value, since_ms, reason| Measure {
            rule,
            integration: installed.id.clone(),
            integration_name: installed.name.clone(),
            value,
            since_ms,
            reason,
        };
        let status = parts.pipelines.snapshot(&installed.id);
        if let Some((reason, since_ms)) = pause_of(installed, status.as_ref(), traffic.started_ms) {
            let lasted = seconds(now_ms - since_ms);
            found.push(measure(
                Rule::IntegrationPaused,
                lasted,
                Some(since_ms),
                Some(reason),
            ));
        }
        if let Some(books) = books.iter().find(|books| books.feed == installed.id) {
            let dead = books.dead.iter().map(|(_, n)| n).sum();
            found.push(measure(Rule::DeadLetters, dead, None, None));
            let oldest = parts.journal.oldest_pending_ms(&installed.id).await?;
            if let Some(at_ms) = oldest {
                found.push(measure(
                    Rule::OldestWaiting,
                    seconds(now_ms - at_ms),
                    Some(at_ms),
                    None,
                ));
            }
        }
        let documents = status.iter().flat_map(|status| &status.documents);
        // One that was never read is as old as our asking.
        let asked_ms = installed.created_at_ms.max(traffic.started_ms);
        if let Some(at_ms) = documents
            .map(|document| document.confirmed_at_ms.unwrap_or(asked_ms))
            .min()
        {
            found.push(measure(
                Rule::DatafileStale,
                seconds(now_ms - at_ms),
                Some(at_ms),
                None,
            ));
        }
    }
    if let Some(at_ms) = traffic.look(&parts.journal, now_ms) {
        found.push(Measure {
            rule: Rule::ZeroTraffic,
            integration: String::new(),
            integration_name: String::new(),
            value: seconds(now_ms - at_ms),
            since_ms: Some(at_ms),
            reason: None,
        });
    }
    let mut gone = std::mem::take(&mut traffic.sources);
    for entry in &picture.sources {
        // One that never posted is not silent, but unused.
        let Some(at_ms) = parts.registry.seen().last_ms(&entry.source.id) else {
            continue;
        };
        let silent_s = seconds(now_ms - at_ms);
        show_silence(&entry.source.id, silent_s);
        gone.remove(&entry.source.id);
        traffic.sources.insert(entry.source.id.clone());
        found.push(Measure {
            rule: Rule::SourceSilent,
            integration: entry.source.id.clone(),
            integration_name: entry.source.name.clone(),
            value: silent_s,
            since_ms: Some(at_ms),
            reason: None,
        });
    }
    // A source that was removed is not silent.
    for source in gone {
        show_silence(&source, 0);
    }
    Ok(found)
}

#[expect(clippy::cast_precision_loss, reason = "an age in seconds for a gauge")]
fn show_silence(source: &str, silent_s: u64) {
    crate::metrics::source_silent_seconds(source).set(silent_s as f64);
}

/// Why an integration, or one of its requests, is paused, and since when.
fn pause_of(
    installed: &Installed,
    status: Option<&Status>,
    started_ms: Millis,
) -> Option<(String, Millis)> {
    if let Some(pause) = &installed.paused {
        return Some(("admin".to_owned(), pause.since_ms));
    }
    if installed.running.is_err() {
        return Some((
            "blueprint".to_owned(),
            started_ms.max(installed.changed_at_ms),
        ));
    }
    let status = status?;
    let word = |reason: &Option<String>| reason.clone().unwrap_or_else(|| "unknown".to_owned());
    if status.state == State::Paused {
        return Some((word(&status.reason), status.since_ms.unwrap_or(started_ms)));
    }
    let request = status
        .requests
        .iter()
        .find(|request| request.state == State::Paused)?;
    let reason = format!("{}: {}", request.name, word(&request.reason));
    Some((reason, request.since_ms.unwrap_or(started_ms)))
}

fn seconds(ms: Millis) -> u64 {
    u64::try_from(ms / 1_000).unwrap_or(0)
}

impl Pipelines for crate::delivery::Handle {
    fn snapshot(&self, integration: &str) -> Option<Status> {
        Self::snapshot(self, integration)
    }
}
