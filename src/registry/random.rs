//! The registry's one door to chance: ids, write keys, tokens and nonces are drawn here, so that tests can fix them.

use std::sync::Arc;

use crate::secret::Secret;

/// Fills bytes with randomness good enough for keys.
#[derive(Clone)]
pub struct Random(Arc<Fill>);

type Fill = dyn Fn(&mut [u8]) + Send + Sync;

/// What keys and tokens are written in: no character that a shell, a URL or a header minds.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What ids are written in: small letters only, because ids also name files.
const BASE36: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

impl Random {
    /// A source of randomness that calls `fill`.
    pub fn new(fill: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(fill))
    }

    /// The machine's.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|bytes| rand::Rng::fill_bytes(&mut rand::rng(), bytes))
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        (self.0)(bytes);
    }

    /// A new id such as `int_…` (82 bits).
    #[must_use]
    pub fn id(&self, prefix: &str) -> String {
        format!("{prefix}_{}", self.text(BASE36, 16))
    }

    /// A new write key, `wk_` and 32 characters (190 bits).
    #[must_use]
    pub fn write_key(&self) -> Secret {
        Secret::new(format!("wk_{}", self.text(BASE62, 32)))
    }

    /// The secret half of an admin token, 32 characters (190 bits).
    #[must_use]
    pub fn token_secret(&self) -> String {
        self.text(BASE62, 32)
    }

    /// The open half of an admin token.
    #[must_use]
    pub fn token_id(&self) -> String {
        self.text(BASE36, 10)
    }

    /// `len` characters, each equally likely: bytes that would favour the first letters are thrown away.
    fn text(&self, alphabet: &[u8], len: usize) -> String {
        let fair = 256 - 256 % alphabet.len();
        let mut text = String::with_capacity(len);
        let mut bytes = [0_u8; 64];
        while text.len() < len {
            self.fill(&mut bytes);
            for byte in bytes.iter().map(|byte| usize::from(*byte)) {
                if byte < fair && text.len() < len {
                    text.push(char::from(alphabet[byte % alphabet.len()]));
                }
            }
        }
        text
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random")
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn keys_have_the_promised_shape_and_differ() {
        let random = Random::system();
        let key = random.write_key();
        assert_eq!(key.expose().len(), 35);
        assert!(
            key.expose()[3..]
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric())
        );
        assert_ne!(key, random.write_key());
        assert!(random.id("int").starts_with("int_"));
    }

    #[test]
    fn bytes_that_would_favour_some_letters_are_not_used() {
        let next = std::sync::atomic::AtomicU8::new(247);
        let random = Random::new(move |bytes| {
            for byte in bytes {
                *byte = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        });
        // 247 is the last fair byte (z); 248 to 255 are passed over, then 0 is the first letter.
        assert!(random.token_secret().starts_with("z0123"));
    }
}
