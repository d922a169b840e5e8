//! Secrets at rest: XChaCha20-Poly1305 under a ring of keys. Knows no database and no integration beyond its id.
//!
//! The first key of the ring encrypts, all of them decrypt. A sealed text is bound to the row it belongs to
//! (integration, field, key), so that one moved to another row no longer opens.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use sha2::{Digest as _, Sha256};

use super::random::Random;
use crate::secret::Secret;

/// Name of the key file in the data directory.
pub const KEY_FILE: &str = "encryption.key";

const NONCE_LEN: usize = 24;

/// Why there is no key ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// An entry of `AQUEDUCT_ENCRYPTION_KEYS` is not a key. `place` counts from 1.
    #[error(
        "AQUEDUCT_ENCRYPTION_KEYS: entry {place} is not a key (32 bytes as base64 or as 64 hex digits); make one with `openssl rand -base64 32`"
    )]
    NotAKey {
        /// Which entry.
        place: usize,
    },
    /// The key file does not hold a key.
    #[error(
        "{path}: not an encryption key (32 bytes as base64); restore the file from your backup, or give the key in AQUEDUCT_ENCRYPTION_KEYS"
    )]
    BadFile {
        /// The file.
        path: PathBuf,
    },
    /// The key file is gone although there is a database that was sealed with it.
    #[error(
        "{path} is missing, and {database} was made with it; restore the file from your backup, or give its key in AQUEDUCT_ENCRYPTION_KEYS"
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// The database.
        database: PathBuf,
    },
    /// The key file could not be read or made.
    #[error("{path}: {source}; the data directory must be readable and writable by this user")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// One key and its name.
struct NamedKey {
    id: String,
    cipher: XChaCha20Poly1305,
}

/// The keys in use.
pub struct KeyRing(Vec<NamedKey>);

/// A sealed text: what stands in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Name of the key it was sealed with.
    pub key_id: String,
    /// Nonce, then cipher text and tag.
    pub bytes: Vec<u8>,
}

/// Why a sealed text does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// Its key is not in the ring.
    #[error("sealed with encryption key {0}, which is not in the ring")]
    UnknownKey(String),
    /// The key is right, the bytes are not: damaged, or moved from another row.
    #[error("the sealed bytes are damaged or belong to another row")]
    Damaged,
}

impl KeyRing {
    /// The ring of the setting when there is one; else that of the key file in `data_dir`, made now (mode 0600)
    /// if neither it nor a database made with it exists.
    ///
    /// # Errors
    /// When a key cannot be read or made.
    pub fn load(
        data_dir: &Path,
        setting: Option<&Secret>,
        random: &Random,
    ) -> Result<Self, RingError> {
        if let Some(setting) = setting {
            return Self::parse(setting.expose());
        }
        let path = data_dir.join(KEY_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let key = read_key(text.trim())
                    .ok_or_else(|| RingError::BadFile { path: path.clone() })?;
                Ok(Self(vec![NamedKey::new(key)]))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let database = data_dir.join(super::store::DATABASE_FILE);
                if database.exists() {
                    return Err(RingError::Missing { path, database });
                }
                let mut key = [0_u8; 32];
                random.fill(&mut key);
                write_key_file(data_dir, &path, &key)
                    .map_err(|source| RingError::File { path, source })?;
                Ok(Self(vec![NamedKey::new(key)]))
            }
            Err(source) if source.kind() == std::io::ErrorKind::InvalidData => {
                Err(RingError::BadFile { path })
            }
            Err(source) => Err(RingError::File { path, source }),
        }
    }

    /// Reads a comma-separated ring.
    ///
    /// # Errors
    /// When an entry is not a key.
    pub fn parse(text: &str) -> Result<Self, RingError> {
        let keys = text
            .split(',')
            .enumerate()
            .map(|(index, entry)| {
                read_key(entry.trim())
                    .map(NamedKey::new)
                    .ok_or(RingError::NotAKey { place: index + 1 })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self(keys))
    }

    /// Names of the keys, the encrypting one first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| key.id.as_str())
    }

    /// True for a text sealed with the key that encrypts now.
    #[must_use]
    pub fn is_current(&self, key_id: &str) -> bool {
        self.ids().next() == Some(key_id)
    }

    /// Seals a text for one field of one row.
    ///
    /// # Errors
    /// Never in practice: only when the text is longer than the cipher allows.
    pub fn seal(
        &self,
        random: &Random,
        row: &str,
        field: &str,
        text: &str,
    ) -> Result<Sealed, UnsealError> {
        let key = self.0.first().ok_or(UnsealError::Damaged)?;
        let mut nonce = [0_u8; NONCE_LEN];
        random.fill(&mut nonce);
        let bound = bound_to(row, field, &key.id);
        let sealed = key
            .cipher
            .encrypt(
                &XNonce::from(nonce),
                Payload {
                    msg: text.as_bytes(),
                    aad: bound.as_bytes(),
                },
            )
            .map_err(|_| UnsealError::Damaged)?;
        let mut bytes = nonce.to_vec();
        bytes.extend_from_slice(&sealed);
        Ok(Sealed {
            key_id: key.id.clone(),
            bytes,
        })
    }

    /// Opens what was sealed for this field of this row.
    ///
    /// # Errors
    /// When the key is not in the ring, or the bytes are not what was sealed for this row.
    pub fn open(&self, row: &str, field: &str, sealed: &Sealed) -> Result<Secret, UnsealError> {
        let key = self
            .0
            .iter()
            .find(|key| key.id == sealed.key_id)
            .ok_or_else(|| UnsealError::UnknownKey(sealed.key_id.clone()))?;
        let (nonce, bytes) = sealed
            .bytes
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(UnsealError::Damaged)?;
        let bound = bound_to(row, field, &key.id);
        let plain = key
            .cipher
            .decrypt(
                &XNonce::from(*nonce),
                Payload {
                    msg: bytes,
                    aad: bound.as_bytes(),
                },
            )
            .map_err(|_| UnsealError::Damaged)?;
        String::from_utf8(plain)
            .map(Secret::new)
            .map_err(|_| UnsealError::Damaged)
    }
}

impl NamedKey {
    fn new(key: [u8; 32]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"aqueduct encryption key");
        hash.update(key);
        Self {
            id: hex(&hash.finalize()[..4]),
            cipher: XChaCha20Poly1305::new(&Key::from(key)),
        }
    }
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

/// What a sealed text is bound to. Persisted in the cipher text: must be kept stable.
fn bound_to(row: &str, field: &str, key_id: &str) -> String {
    format!("{row}|{field}|{key_id}")
}

/// Bytes as small hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn read_key(text: &str) -> Option<[u8; 32]> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let mut key = [0_u8; 32];
        for (place, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(place * 2..place * 2 + 2)?, 16).ok()?;
        }
        return Some(key);
    }
    [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
        .iter()
        .find_map(|engine| engine.decode(text).ok())
        .and_then(|bytes| bytes.try_into().ok())
}

/// Written whole or not at all, and on stable storage before anything is sealed with it.
fn write_key_file(data_dir: &Path, path: &Path, key: &[u8; 32]) -> std::io::Result<()> {
    let draft = data_dir.join(format!("{KEY_FILE}.new"));
    // A draft left by a crash may be readable by others: never write a key into it.
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    file.write_all(STANDARD.encode(key).as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    std::fs::File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::{KeyRing, RingError, UnsealError};
    use crate::registry::random::Random;
    use crate::secret::Secret;

    const OLD: &str = "0000000000000000000000000000000000000000000000000000000000000001";
    const NEW: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=";

    #[test]
    fn what_is_sealed_opens_only_in_its_own_row() {
        let ring = KeyRing::parse(OLD).unwrap();
        let random = Random::system();
        let sealed = ring.seal(&random, "int_1", "sdk_key", "s3cret").unwrap();
        assert_eq!(
            ring.open("int_1", "sdk_key", &sealed),
            Ok(Secret::new("s3cret"))
        );
        for (row, field) in [("int_2", "sdk_key"), ("int_1", "api_key")] {
            assert_eq!(ring.open(row, field, &sealed), Err(UnsealError::Damaged));
        }
        for place in 0..sealed.bytes.len() {
            let mut damaged = sealed.clone();
            damaged.bytes[place] ^= 1;
            assert_eq!(
                ring.open("int_1", "sdk_key", &damaged),
                Err(UnsealError::Damaged)
            );
        }
    }

    #[test]
    fn a_ring_opens_old_texts_and_seals_with_the_first_key() {
        let random = Random::system();
        let sealed = KeyRing::parse(OLD)
            .unwrap()
            .seal(&random, "r", "f", "x")
            .unwrap();
        let both = KeyRing::parse(&format!("{NEW}, {OLD}")).unwrap();
        assert_eq!(both.open("r", "f", &sealed), Ok(Secret::new("x")));
        assert!(!both.is_current(&sealed.key_id));
        assert!(both.is_current(&both.seal(&random, "r", "f", "x").unwrap().key_id));
        assert!(matches!(
            KeyRing::parse(NEW).unwrap().open("r", "f", &sealed),
            Err(UnsealError::UnknownKey(_))
        ));
        assert!(matches!(
            KeyRing::parse(&format!("{OLD},short")),
            Err(RingError::NotAKey { place: 2 })
        ));
    }

    #[test]
    fn the_key_file_is_made_once_and_for_this_user_only() {
        let dir = tempfile::tempdir().unwrap();
        let random = Random::system();
        let first = KeyRing::load(dir.path(), None, &random).unwrap();
        let again = KeyRing::load(dir.path(), None, &random).unwrap();
        assert!(first.ids().eq(again.ids()));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(dir.path().join(super::KEY_FILE))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        std::fs::remove_file(dir.path().join(super::KEY_FILE)).unwrap();
        std::fs::write(dir.path().join(crate::registry::store::DATABASE_FILE), b"").unwrap();
        assert!(matches!(
            KeyRing::load(dir.path(), None, &random),
            Err(RingError::Missing { .. })
        ));
    }
}
