//! Which fields Pendo has: metadata with a field nobody made is refused as a whole
//! (`GET /api/v1/metadata/schema/{visitor|account}`).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::blueprint::Request;
use crate::secret::Secret;
use crate::vendor::replies::Fields;

/// For `POST …/api/v1/metadata/{who}/{group}/value`.
pub static FIELDS: Fields = Fields {
    ask,
    read,
    inside: "values",
};

/// Below it stand who and group.
const METADATA: &str = "/api/v1/metadata/";

/// Host, who and group of a write.
fn place(url: &str) -> Option<(&str, &str, &str)> {
    let (host, rest) = url.split_once(METADATA)?;
    let mut steps = rest.split('/');
    Some((host, steps.next()?, steps.next()?))
}

/// The schema is asked for with the key of the write. Fields of other groups than `custom` need not be made first.
fn ask(write: &Request) -> Option<Request> {
    let (host, who, group) = place(write.url.expose())?;
    (group == "custom").then(|| Request {
        name: write.name.clone(),
        method: "GET".to_owned(),
        url: Secret::new(format!("{host}{METADATA}schema/{who}")),
        headers: write
            .headers
            .iter()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("content-type"))
            .cloned()
            .collect(),
        body: bytes::Bytes::new(),
    })
}

/// `{"custom": {"field": {"isDeleted": false, …}}}`
fn read(write: &Request, body: &[u8]) -> Option<BTreeSet<String>> {
    let (_, _, group) = place(write.url.expose())?;
    let schema: Value = serde_json::from_slice(body).ok()?;
    let fields = schema.get(group)?.as_object()?;
    let deleted = |field: &Value| field.get("isDeleted").and_then(Value::as_bool) == Some(true);
    Some(
        fields
            .iter()
            .filter(|(_, field)| !deleted(field))
            .map(|(name, _)| name.to_lowercase())
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(url: &str) -> Request {
        Request {
            name: "visitor".to_owned(),
            method: "POST".to_owned(),
            url: Secret::new(url.to_owned()),
            headers: vec![
                (
                    "x-pendo-integration-key".to_owned(),
                    Secret::new("k".to_owned()),
                ),
                (
                    "content-type".to_owned(),
                    Secret::new("application/json".to_owned()),
                ),
            ],
            body: bytes::Bytes::from_static(b"[]"),
        }
    }

    #[test]
    fn the_schema_is_asked_for_where_it_is_written_and_deleted_fields_are_none() {
        let write =
            write("https://app.eu.pendo.io/api/v1/metadata/account/custom/value?create=true");
        let ask = (FIELDS.ask)(&write).unwrap();
        assert_eq!(
            (ask.method.as_str(), ask.url.expose()),
            (
                "GET",
                "https://app.eu.pendo.io/api/v1/metadata/schema/account"
            )
        );
        assert_eq!(ask.headers.len(), 1);
        assert!(ask.body.is_empty());
        let body =
            br#"{"agent":{"x":{}},"custom":{"Plan":{"Type":"text"},"old":{"isDeleted":true}}}"#;
        assert_eq!(
            (FIELDS.read)(&write, body),
            Some(["plan".to_owned()].into())
        );
        assert_eq!((FIELDS.read)(&write, b"<html>"), None);
    }

    #[test]
    fn fields_of_the_agents_group_need_not_be_there() {
        let write = write("https://app.pendo.io/api/v1/metadata/visitor/agent/value");
        assert!((FIELDS.ask)(&write).is_none());
    }
}
