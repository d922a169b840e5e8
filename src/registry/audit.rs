//! The audit log: who did what to which object, and how it went. Append-only; each row holds the hash of the one
//! before, so a row that was changed, removed or slipped in later is found.

use rusqlite::{Connection, OptionalExtension as _, Transaction};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Role;
use super::store::StoreError;
use crate::clock::Millis;

/// Who makes a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// Token id, or `startup`, or `cli`.
    pub id: String,
    /// Its role.
    pub role: Role,
}

impl Actor {
    /// The process itself, at start.
    #[must_use]
    pub fn startup() -> Self {
        Self {
            id: "startup".to_owned(),
            role: Role::Admin,
        }
    }

    /// Whoever may read the data directory, by command line.
    #[must_use]
    pub fn cli() -> Self {
        Self {
            id: "cli".to_owned(),
            role: Role::Admin,
        }
    }
}

/// What to write down. `before` and `after` never hold secrets: they are made from masked descriptions.
#[derive(Debug, Clone)]
pub struct Deed<'a> {
    /// Who.
    pub actor: &'a Actor,
    /// What, e.g. `integration.install`.
    pub action: &'a str,
    /// To which, e.g. `int_…`.
    pub object: &'a str,
    /// How it was.
    pub before: Option<Value>,
    /// How it is now.
    pub after: Option<Value>,
    /// `ok`, or the code of the failure.
    pub result: &'a str,
}

/// One row as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Number, from 1, without gaps.
    pub n: u64,
    /// When.
    pub at_ms: Millis,
    /// Who.
    pub actor: String,
    /// Their role.
    pub role: String,
    /// What.
    pub action: String,
    /// To which.
    pub object: String,
    /// How it was, as JSON text.
    pub before: Option<String>,
    /// How it is now, as JSON text.
    pub after: Option<String>,
    /// How it went.
    pub result: String,
    prev: Vec<u8>,
    hash: Vec<u8>,
}

/// The first row that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("audit row {n}: {detail}")]
pub struct AuditFault {
    /// Its number (that it should have).
    pub n: u64,
    /// What does not fit.
    pub detail: &'static str,
}

/// Writes a row within the transaction of the change it is about.
pub(super) fn write(
    tx: &Transaction<'_>,
    now_ms: Millis,
    deed: &Deed<'_>,
) -> Result<(), StoreError> {
    let last: Option<(u64, Vec<u8>)> = tx
        .query_row(
            "SELECT n, hash FROM audit ORDER BY n DESC LIMIT 1",
            [],
            |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?)),
        )
        .optional()?;
    let (n, prev) = last.map_or((1, vec![0; 32]), |(n, hash)| (n + 1, hash));
    let mut row = AuditRow {
        n,
        at_ms: now_ms,
        actor: deed.actor.id.clone(),
        role: role_word(deed.actor.role).to_owned(),
        action: deed.action.to_owned(),
        object: deed.object.to_owned(),
        before: deed.before.as_ref().map(Value::to_string),
        after: deed.after.as_ref().map(Value::to_string),
        result: deed.result.to_owned(),
        prev,
        hash: Vec::new(),
    };
    row.hash = row.digest();
    tx.execute(
        "INSERT INTO audit (n, at_ms, actor, role, action, object, before, after, result, prev, hash) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        rusqlite::params![
            i64::try_from(row.n).unwrap_or(i64::MAX),
            row.at_ms,
            row.actor,
            row.role,
            row.action,
            row.object,
            row.before,
            row.after,
            row.result,
            row.prev,
            row.hash
        ],
    )?;
    Ok(())
}

/// Rows, newest first, below `before` if given.
pub(super) fn read(
    db: &Connection,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<AuditRow>, StoreError> {
    let mut query = db.prepare_cached(
        "SELECT n, at_ms, actor, role, action, object, before, after, result, prev, hash FROM audit \
         WHERE n < ?1 ORDER BY n DESC LIMIT ?2",
    )?;
    let before = before.map_or(i64::MAX, |n| i64::try_from(n).unwrap_or(i64::MAX));
    let rows = query.query_map((before, i64::try_from(limit).unwrap_or(i64::MAX)), row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Walks the whole log. Returns how many rows fit together.
///
/// # Errors
/// The outer one when SQLite fails; the inner one names the first row that does not fit.
pub(super) fn verify(db: &Connection) -> Result<Result<u64, AuditFault>, StoreError> {
    let mut query = db.prepare_cached(
        "SELECT n, at_ms, actor, role, action, object, before, after, result, prev, hash FROM audit ORDER BY n",
    )?;
    let mut rows = query.query([])?;
    let mut count = 0;
    let mut prev = vec![0; 32];
    while let Some(found) = rows.next()? {
        let n = count + 1;
        let Ok(found) = row(found) else {
            return Ok(Err(AuditFault {
                n,
                detail: "its columns are not what was written",
            }));
        };
        let detail = if found.n != n {
            Some("a row before it is missing")
        } else if found.prev != prev {
            Some("it does not follow the row before it")
        } else if found.hash != found.digest() {
            Some("its content is not what was written")
        } else {
            None
        };
        if let Some(detail) = detail {
            return Ok(Err(AuditFault { n, detail }));
        }
        prev = found.hash;
        count = n;
    }
    Ok(Ok(count))
}

/// The word stored for a role. Persisted: must be kept stable.
pub(super) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Editor => "editor",
        Role::Admin => "admin",
    }
}

/// Back from the stored word.
pub(super) fn role_of(word: &str) -> Option<Role> {
    [Role::Viewer, Role::Operator, Role::Editor, Role::Admin]
        .into_iter()
        .find(|role| role_word(*role) == word)
}

impl AuditRow {
    /// Hash of the row before and of every column, each with its length, so that no two rows read alike.
    fn digest(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        hash.update(&self.prev);
        hash.update(self.n.to_le_bytes());
        hash.update(self.at_ms.to_le_bytes());
        for text in [
            Some(&self.actor),
            Some(&self.role),
            Some(&self.action),
            Some(&self.object),
            self.before.as_ref(),
            self.after.as_ref(),
            Some(&self.result),
        ] {
            match text {
                Some(text) => {
                    hash.update((text.len() as u64).to_le_bytes());
                    hash.update(text.as_bytes());
                }
                None => hash.update(u64::MAX.to_le_bytes()),
            }
        }
        hash.finalize().to_vec()
    }
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<AuditRow> {
    Ok(AuditRow {
        n: row.get::<_, i64>(0)?.unsigned_abs(),
        at_ms: row.get(1)?,
        actor: row.get(2)?,
        role: row.get(3)?,
        action: row.get(4)?,
        object: row.get(5)?,
        before: row.get(6)?,
        after: row.get(7)?,
        result: row.get(8)?,
        prev: row.get(9)?,
        hash: row.get(10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Actor, Deed, read, verify, write};
    use crate::registry::store::{Store, StoreError};

    fn log_of_three(dir: &std::path::Path) -> Store {
        let mut store = Store::open(dir, 0).unwrap();
        for object in ["one", "two", "three"] {
            store
                .change(|tx| {
                    write(
                        tx,
                        7,
                        &Deed {
                            actor: &Actor::cli(),
                            action: "test",
                            object,
                            before: None,
                            after: Some(serde_json::json!({ "object": object })),
                            result: "ok",
                        },
                    )
                })
                .unwrap();
        }
        store
    }

    /// Changes the log as somebody with the file in hand would.
    fn tampered(sql: &str) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        let mut store = log_of_three(dir.path());
        store
            .change(|tx| {
                tx.execute_batch("DROP TRIGGER audit_stays; DROP TRIGGER audit_is_kept;")?;
                Ok::<_, StoreError>(tx.execute_batch(sql)?)
            })
            .unwrap();
        verify(store.reader()).unwrap().unwrap_err().n
    }

    #[test]
    fn an_untouched_log_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let store = log_of_three(dir.path());
        assert_eq!(verify(store.reader()).unwrap(), Ok(3));
        let rows = read(store.reader(), Some(3), 1).unwrap();
        assert_eq!((rows[0].n, rows[0].object.as_str()), (2, "two"));
    }

    #[test]
    fn one_flipped_byte_is_found() {
        for column in ["actor", "role", "action", "object", "after", "result"] {
            let sql = format!(
                "UPDATE audit SET {column} = char(unicode({column}) + 1) || substr({column}, 2) WHERE n = 2"
            );
            assert_eq!(tampered(&sql), 2, "{column}");
        }
        assert_eq!(tampered("UPDATE audit SET at_ms = 8 WHERE n = 2"), 2);
        assert_eq!(tampered("UPDATE audit SET before = '' WHERE n = 1"), 1);
        assert_eq!(
            tampered("UPDATE audit SET hash = zeroblob(32) WHERE n = 3"),
            3
        );
        assert_eq!(tampered("DELETE FROM audit WHERE n = 2"), 2);
    }

    #[test]
    fn the_database_itself_refuses_changes_to_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = log_of_three(dir.path());
        for sql in ["UPDATE audit SET actor = 'x'", "DELETE FROM audit"] {
            assert!(
                store
                    .change(|tx| Ok::<_, StoreError>(tx.execute_batch(sql)?))
                    .is_err()
            );
        }
    }
}
