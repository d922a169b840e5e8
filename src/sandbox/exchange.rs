//! A vendor request as the playing vendors see it, and their reply. Pure.

use std::net::IpAddr;

use bytes::Bytes;
use hyper::{HeaderMap, Method};
use serde_json::{Map, Value};

use crate::clock::Millis;

/// A request, read.
#[derive(Debug)]
pub struct Ask<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path below the vendor's prefix, in decoded segments.
    pub path: Vec<String>,
    /// Query, raw.
    pub query: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// Bytes of the body as it came.
    pub body_bytes: usize,
    /// The body as JSON; none when it is none, empty or longer than the sandbox reads.
    pub json: Option<Value>,
    /// Who asks.
    pub peer: Option<IpAddr>,
    /// The sandbox's time.
    pub now_ms: Millis,
}

impl Ask<'_> {
    /// Method and path segments, to match on.
    #[must_use]
    pub fn route(&self) -> (&str, Vec<&str>) {
        let path = self.path.iter().map(String::as_str).collect();
        (self.method.as_str(), path)
    }

    /// A header's text, "" when absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    }

    /// A query parameter.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    /// The body as an object.
    #[must_use]
    pub fn object(&self) -> Option<&Map<String, Value>> {
        self.json.as_ref().and_then(Value::as_object)
    }
}

/// Path segments, each percent-decoded.
#[must_use]
pub fn segments(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .map(decode)
        .collect()
}

fn decode(segment: &str) -> String {
    let bytes = segment.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = segment
            .get(at + 1..at + 3)
            .filter(|_| byte == b'%')
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(code.unwrap_or(byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Headers beside content type and length.
    pub headers: Vec<(&'static str, String)>,
    /// JSON, or empty.
    pub body: Bytes,
}

impl Reply {
    /// No body.
    #[must_use]
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// A JSON body.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::from(body.to_string()),
        }
    }

    /// With a header more.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// The text a field of an object holds; none when it is absent, empty or no text.
#[must_use]
pub fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    object
        .get(field)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

/// Whether a text is an ISO-8601 time with an offset, or a date and time without.
#[must_use]
pub fn is_iso_time(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok() || text.parse::<jiff::civil::DateTime>().is_ok()
}

/// A flag key as a name part: lower case, runs of anything but letters and digits as `_`.
#[must_use]
pub fn slug(flag: &str) -> String {
    let mut slug = String::with_capacity(flag.len());
    for char in flag.chars() {
        if char.is_ascii_alphanumeric() {
            slug.push(char.to_ascii_lowercase());
        } else if !slug.ends_with('_') {
            slug.push('_');
        }
    }
    slug
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_decoded_one_by_one() {
        assert_eq!(
            segments("/v3/contacts/a%2Fb%40x.y//%zz"),
            ["v3", "contacts", "a/b@x.y", "%zz"]
        );
    }
}
