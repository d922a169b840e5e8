//! What a vendor is asked before an integration is stored: whether the key opens anything, and whether the fields
//! that will be written exist. Who asks (and over what network) is decided elsewhere.

use serde_json::Value;

use crate::blueprint::{FieldFault, Request};
use crate::secret::Secret;

/// One question to a vendor.
#[derive(Debug, Clone)]
pub struct Question {
    /// Which question it is, for [`super::Vendor::judge`].
    pub about: &'static str,
    /// The field of the config to name when the address cannot be reached.
    pub field: &'static str,
    /// What is sent.
    pub request: Request,
}

/// The vendor's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// HTTP status.
    pub status: u16,
    /// The body; `Null` when it is no JSON.
    pub body: Value,
}

/// What follows from an answer.
#[derive(Debug, Default)]
pub struct Findings {
    /// Reasons to refuse the install.
    pub faults: Vec<FieldFault>,
    /// Things to do at the vendor; the install goes ahead.
    pub warnings: Vec<FieldFault>,
    /// What is to be asked next.
    pub then: Vec<Question>,
}

impl Findings {
    /// One reason to refuse.
    #[must_use]
    pub fn refuse(fault: FieldFault) -> Self {
        Self {
            faults: vec![fault],
            ..Self::default()
        }
    }

    /// One thing to look at.
    #[must_use]
    pub fn warn(warning: FieldFault) -> Self {
        Self {
            warnings: vec![warning],
            ..Self::default()
        }
    }
}

impl Question {
    /// A `GET`.
    #[must_use]
    pub fn get(
        about: &'static str,
        field: &'static str,
        url: String,
        headers: Vec<(String, Secret)>,
    ) -> Self {
        Self {
            about,
            field,
            request: Request {
                name: about.to_owned(),
                method: "GET".to_owned(),
                url: Secret::new(url),
                headers,
                body: bytes::Bytes::new(),
            },
        }
    }

    /// A `POST` of JSON.
    #[must_use]
    pub fn post(
        about: &'static str,
        field: &'static str,
        url: String,
        mut headers: Vec<(String, Secret)>,
        body: &Value,
    ) -> Self {
        headers.push((
            "content-type".to_owned(),
            Secret::new("application/json".to_owned()),
        ));
        let mut question = Self::get(about, field, url, headers);
        "POST".clone_into(&mut question.request.method);
        question.request.body = body.to_string().into();
        question
    }
}
