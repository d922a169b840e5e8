//! Forms as browsers send them: `application/x-www-form-urlencoded`, read into pairs.

use url::form_urlencoded;

/// Largest body taken, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;

/// Name of the field that proves a form is one of ours.
pub(super) const CSRF_FIELD: &str = "_csrf";

/// A form as it was sent. Handlers find it in the request's extensions once the gate has let it through.
#[derive(Debug, Clone, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    pub(super) fn read(body: &[u8]) -> Self {
        Self(
            form_urlencoded::parse(body)
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
        )
    }

    /// The query string of an address.
    pub(super) fn query(query: Option<&str>) -> Self {
        Self::read(query.unwrap_or_default().as_bytes())
    }

    /// A field's value; empty when it was not sent.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(field, _)| field == name)
            .map_or("", |(_, value)| value.as_str())
    }

    /// A field's value without white space around it; none when nothing is left.
    pub(super) fn given(&self, name: &str) -> Option<&str> {
        Some(self.text(name).trim()).filter(|text| !text.is_empty())
    }

    /// True for a field that was sent, even empty.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(field, _)| field == name)
    }

    /// All values of a field that may be sent more than once.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// Rows of a list on one page.
const PAGE_ROWS: &str = "50";

/// What a list is filtered by, as its page's address says: the same words ask the API and lead to the next page.
#[derive(Debug)]
pub(super) struct Filter<'a>(Vec<(&'static str, &'a str)>);

impl<'a> Filter<'a> {
    /// Reads these fields.
    pub(super) fn of(query: &'a Form, names: &[&'static str]) -> Self {
        let pairs = names.iter().map(|name| (*name, query.text(name).trim()));
        Self(pairs.collect())
    }

    /// A field's value; empty when it was not sent.
    pub(super) fn text(&self, name: &str) -> &'a str {
        let found = self.0.iter().find(|(field, _)| *field == name);
        found.map_or("", |(_, value)| value)
    }

    /// Is anything filtered out?
    pub(super) fn any(&self) -> bool {
        self.0.iter().any(|(_, value)| !value.is_empty())
    }

    /// An address with this filter and nothing more.
    pub(super) fn on(&self, path: &str) -> String {
        format!("{path}{}", query_of(&self.0))
    }

    /// One page of a list of the API, from a cursor on.
    pub(super) fn asks(&self, path: &str, cursor: &str) -> String {
        let page = [("cursor", cursor), ("limit", PAGE_ROWS)];
        let pairs = [self.0.as_slice(), &page].concat();
        format!("{path}{}", query_of(&pairs))
    }

    /// The address of the console's page that goes on at a cursor, under this name.
    pub(super) fn goes_on(
        &self,
        path: &str,
        name: &'static str,
        cursor: Option<String>,
    ) -> Option<String> {
        let cursor = cursor?;
        let pairs = [self.0.as_slice(), &[(name, cursor.as_str())]].concat();
        Some(format!("{path}{}", query_of(&pairs)))
    }
}

/// A query string of the pairs that have a value, with its question mark; empty when none has.
pub(super) fn query_of(pairs: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        query.append_pair(name, value);
    }
    let query = query.finish();
    if query.is_empty() {
        query
    } else {
        format!("?{query}")
    }
}

/// A text as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    // Form encoding writes a space as `+`, which a path takes literally.
    let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
    encoded.replace('+', "%20")
}
