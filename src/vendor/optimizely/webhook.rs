//! Optimizely's "datafile updated" webhook: is it theirs, and does it concern us? Pure.
//!
//! Addresses in the body are never followed: a good webhook only makes us read our own datafile sooner.

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha1::Sha1;

use crate::secret::Secret;

/// What a webhook says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The project's datafile has (at least) this revision now.
    Updated {
        /// `data.revision`, when it is a number.
        revision: Option<u64>,
        /// `data.environment`, e.g. `Production`.
        environment: Option<String>,
    },
    /// Genuine, but of no concern: another kind of event, or another project.
    Ignored,
}

/// A webhook that is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoticeError {
    /// The signature is missing, of the wrong form or wrong.
    #[error("X-Hub-Signature does not match: check the webhook's secret")]
    BadSignature,
    /// Signed, but not JSON.
    #[error("the webhook's body is not JSON")]
    Malformed,
}

/// Checks `X-Hub-Signature: sha1=<hex HMAC-SHA1(secret, raw body)>` (Optimizely's webhook docs) and reads the body.
///
/// # Errors
/// When the signature does not hold, or the body of a signed request is not JSON.
pub fn read(
    secret: &Secret,
    project_id: &str,
    signature: Option<&str>,
    body: &[u8],
) -> Result<Notice, NoticeError> {
    verify(secret, signature, body)?;
    let notice: Value = serde_json::from_slice(body).map_err(|_| NoticeError::Malformed)?;
    let ours = notice
        .get("project_id")
        .and_then(super::id)
        .is_none_or(|id| id == project_id);
    let updated = notice.get("event").and_then(Value::as_str) == Some("project.datafile_updated");
    if !(ours && updated) {
        return Ok(Notice::Ignored);
    }
    let data = notice.get("data");
    Ok(Notice::Updated {
        revision: data
            .and_then(|data| super::id(data.get("revision")?))
            .and_then(|text| text.parse().ok()),
        environment: data
            .and_then(|data| data.get("environment")?.as_str())
            .map(str::to_owned),
    })
}

fn verify(secret: &Secret, signature: Option<&str>, body: &[u8]) -> Result<(), NoticeError> {
    let claimed = signature
        .and_then(|text| text.trim().strip_prefix("sha1="))
        .and_then(unhex)
        .ok_or(NoticeError::BadSignature)?;
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes())
        .map_err(|_| NoticeError::BadSignature)?;
    mac.update(body);
    // Compares in constant time.
    mac.verify_slice(&claimed)
        .map_err(|_| NoticeError::BadSignature)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            // `from_str_radix` would take `+f` for a number.
            (!pair.contains('+'))
                .then(|| u8::from_str_radix(pair, 16).ok())
                .flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"project_id":1234,"timestamp":1468447113,"event":"project.datafile_updated","data":{"revision":17,"origin_url":"https://evil.example/","environment":"Production"}}"#;

    fn sign(secret: &str, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(body);
        let hex: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("sha1={hex}")
    }

    #[test]
    fn known_hmac() {
        // RFC 2202, test case 2.
        assert_eq!(
            sign("Jefe", b"what do ya want for nothing?"),
            "sha1=effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"
        );
    }

    #[test]
    fn only_the_right_signature_is_believed() {
        let secret = Secret::new("s3cret");
        let good = sign("s3cret", BODY);
        let told = read(&secret, "1234", Some(&good), BODY).unwrap();
        assert_eq!(
            told,
            Notice::Updated {
                revision: Some(17),
                environment: Some("Production".into())
            }
        );
        let mut flipped = BODY.to_vec();
        flipped[20] ^= 1;
        let short = good[..good.len() - 2].to_owned();
        let plus = good.replacen("sha1=", "sha1=+", 1);
        let sha256 = good.replacen("sha1", "sha256", 1);
        for (signature, body) in [
            (None, BODY),
            (Some(""), BODY),
            (Some("sha1="), BODY),
            (Some("sha1=zz"), BODY),
            (Some(short.as_str()), BODY),
            (Some(plus.as_str()), BODY),
            (Some(sha256.as_str()), BODY),
            (Some(sign("other", BODY).as_str()), BODY),
            (Some(good.as_str()), flipped.as_slice()),
        ] {
            assert_eq!(
                read(&secret, "1234", signature, body),
                Err(NoticeError::BadSignature),
                "{signature:?}"
            );
        }
    }

    #[test]
    fn other_projects_and_other_events_are_ignored() {
        let secret = Secret::new("s");
        for body in [
            br#"{"project_id":99,"event":"project.datafile_updated","data":{"revision":1}}"#
                .as_slice(),
            br#"{"project_id":1234,"event":"flag.updated","data":{}}"#,
            br#"[]"#,
        ] {
            let told = read(&secret, "1234", Some(&sign("s", body)), body);
            assert_eq!(told, Ok(Notice::Ignored));
        }
        let told = read(&secret, "1234", Some(&sign("s", b"{")), b"{");
        assert_eq!(told, Err(NoticeError::Malformed));
    }
}
