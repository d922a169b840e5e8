//! A text that must not be seen: no `Debug`, no `Serialize`, wiped from memory when dropped.
//!
//! `expose` is the only way to the text, so every place that uses a secret can be found by that word.

use secrecy::{ExposeSecret, SecretString};

/// A secret text. Its `Debug` and `Display` show no more than the last four characters of a long one.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The text itself. Call it only where it leaves for the place it is meant for.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// What may be shown to recognise the secret: `…4f2a`, or `…` when it is too short to show any of it.
    #[must_use]
    pub fn hint(&self) -> String {
        let text = self.expose();
        if text.chars().count() < 12 {
            return "…".to_owned();
        }
        let tail: String = text
            .chars()
            .rev()
            .take(4)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        format!("…{tail}")
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq as _;
        self.expose()
            .as_bytes()
            .ct_eq(other.expose().as_bytes())
            .into()
    }
}

impl Eq for Secret {}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn a_secret_shows_only_the_end_of_a_long_text() {
        assert_eq!(Secret::new("sdk_0123456789abcd").hint(), "…abcd");
        assert_eq!(Secret::new("short").hint(), "…");
        assert_eq!(
            format!("{:?}", Secret::new("sdk_0123456789abcd")),
            "Secret(…)"
        );
    }
}
