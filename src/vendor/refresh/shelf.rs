//! The last good copy of a plan's table documents, one file per integration, replaced atomically.
//!
//! With it a dead CDN does not matter: after a restart mapping goes on with what was known. Addresses may hold
//! keys, so the file names a document by the hash of its address.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::clock::Millis;

/// Number of the file's form. Persisted; a file of another form is left alone and read anew from the vendor.
const FORMAT: u64 = 1;

/// One document as last read.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    /// SHA-256 of its address, in hex.
    pub address: String,
    /// Whose it is, see `Vendor::owner`.
    pub owner: String,
    /// Its `ETag`.
    pub etag: Option<String>,
    /// Its `Last-Modified`.
    pub last_modified: Option<String>,
    /// When it was last read or found unchanged.
    pub confirmed_at_ms: Millis,
    /// When this content was first read.
    pub changed_at_ms: Millis,
    /// The tables read from it, history included, by name.
    pub tables: Map<String, Value>,
    /// The document itself, as received (kept as text: parsed it would take many times the room).
    pub document: Arc<str>,
}

/// Hash by which a document is found again.
pub(super) fn address(url: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(url.as_bytes())
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

/// The file of an integration.
pub(super) fn path(dir: &Path, integration: &str) -> PathBuf {
    let name: String = integration
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') {
                c
            } else {
                '_'
            }
        })
        .collect();
    dir.join(format!("{name}.json"))
}

/// Reads the file. None when there is none or it cannot be used; the reason is logged, and the next good reading
/// replaces it.
pub(super) fn load(path: &Path) -> Vec<Copy> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read the last datafile copy");
            return Vec::new();
        }
    };
    let copies = serde_json::from_slice::<Value>(&bytes)
        .map_err(|error| error.to_string())
        .and_then(|json| read(&json).ok_or_else(|| "not in the form this version writes".into()));
    copies.unwrap_or_else(|why: String| {
        tracing::warn!(path = %path.display(), why, "the last datafile copy cannot be used");
        Vec::new()
    })
}

fn read(json: &Value) -> Option<Vec<Copy>> {
    if json.get("format")?.as_u64()? != FORMAT {
        return None;
    }
    json.get("documents")?
        .as_array()?
        .iter()
        .map(|entry| {
            let text = |key: &str| Some(entry.get(key)?.as_str()?.to_owned());
            Some(Copy {
                address: text("address")?,
                owner: text("owner")?,
                etag: text("etag"),
                last_modified: text("last_modified"),
                confirmed_at_ms: entry.get("confirmed_at_ms")?.as_i64()?,
                changed_at_ms: entry.get("changed_at_ms")?.as_i64()?,
                tables: entry.get("tables")?.as_object()?.clone(),
                document: entry.get("document")?.as_str()?.into(),
            })
        })
        .collect()
}

/// Replaces the file so that after a crash it is the old or the new one, whole.
pub(super) fn save<'a>(
    path: &Path,
    copies: impl Iterator<Item = &'a Copy>,
) -> Result<(), std::io::Error> {
    let documents: Vec<Value> = copies
        .map(|copy| {
            json!({
                "address": copy.address,
                "owner": copy.owner,
                "etag": copy.etag,
                "last_modified": copy.last_modified,
                "confirmed_at_ms": copy.confirmed_at_ms,
                "changed_at_ms": copy.changed_at_ms,
                "tables": copy.tables,
                "document": &*copy.document,
            })
        })
        .collect();
    let bytes = serde_json::to_vec(&json!({"format": FORMAT, "documents": documents}))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let temporary = path.with_extension("json.tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&temporary, path)?;
    // The rename itself must reach the disk, or a power cut brings the old name back.
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_comes_back_as_it_was_and_damage_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), "int_1/../x");
        assert_eq!(path, dir.path().join("int_1____x.json"));
        assert!(load(&path).is_empty());
        let document = r#"{"revision":"42","big":12345678901234567890.10}"#;
        let copy = Copy {
            address: address("https://cdn.example/secret.json"),
            owner: "1/2".into(),
            etag: Some("\"a\"".into()),
            last_modified: None,
            confirmed_at_ms: 5,
            changed_at_ms: 4,
            tables: Map::from_iter([("events".to_owned(), json!({"a": 1}))]),
            document: document.into(),
        };
        save(&path, [&copy].into_iter()).unwrap();
        let back = load(&path);
        assert_eq!(back.len(), 1);
        assert_eq!(&*back[0].document, document);
        assert_eq!(back[0].etag.as_deref(), Some("\"a\""));
        assert_eq!(back[0].tables["events"], json!({"a": 1}));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("secret.json"));
        std::fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(load(&path).is_empty());
    }
}
