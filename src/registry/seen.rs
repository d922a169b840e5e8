//! When each source last posted an event: noted by whoever takes events, read by whoever watches. Written down now and
//! then, so that a silence is known to be one also after a restart; what a crash forgets is less than a minute.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use super::control::{ChangeError, Registry};
use super::store::StoreError;
use crate::clock::Millis;

/// The moments by source. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<Mutex<HashMap<String, Moment>>>);

/// The moment of one source (Unix ms); 0 = never.
#[derive(Debug, Clone, Default)]
pub struct Moment(Arc<AtomicI64>);

impl Moment {
    /// An event was accepted now.
    pub fn note(&self, now_ms: Millis) {
        self.0.fetch_max(now_ms, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Millis> {
        Some(self.0.load(Ordering::Relaxed)).filter(|at_ms| *at_ms > 0)
    }
}

impl Seen {
    /// Where to note events of a source.
    #[must_use]
    pub fn of(&self, source: &str) -> Moment {
        let mut moments = self.0.lock();
        if let Some(known) = moments.get(source) {
            return known.clone();
        }
        moments.entry(source.to_owned()).or_default().clone()
    }

    /// When a source last posted; none when it never did.
    #[must_use]
    pub fn last_ms(&self, source: &str) -> Option<Millis> {
        self.0.lock().get(source).and_then(Moment::get)
    }
}

impl Registry {
    /// When each source last posted.
    #[must_use]
    pub fn seen(&self) -> &Seen {
        &self.0.seen
    }

    /// Writes down when the sources there are last posted.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keep_seen(&self) -> Result<(), ChangeError> {
        let rows: Vec<(String, Millis)> = self
            .picture()
            .sources
            .iter()
            .filter_map(|entry| {
                let at_ms = self.seen().last_ms(&entry.source.id)?;
                Some((entry.source.id.clone(), at_ms))
            })
            .collect();
        self.record(move |tx, _| {
            for (source, at_ms) in rows {
                // A source may just have been removed.
                tx.prepare_cached(
                    "INSERT INTO source_seen (source, at_ms) SELECT id, ?2 FROM sources WHERE id = ?1 \
                     ON CONFLICT (source) DO UPDATE SET at_ms = excluded.at_ms WHERE at_ms < excluded.at_ms",
                )?
                .execute((source, at_ms))?;
            }
            Ok(())
        })
        .await
    }
}

/// What was written down.
pub(super) fn read(db: &rusqlite::Connection) -> Result<Seen, StoreError> {
    let seen = Seen::default();
    let mut query = db.prepare("SELECT source, at_ms FROM source_seen")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let source: String = row.get(0)?;
        seen.of(&source).note(row.get(1)?);
    }
    drop(rows);
    drop(query);
    Ok(seen)
}
