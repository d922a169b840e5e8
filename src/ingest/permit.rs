//! What a source may post and from where, made ready to be asked for every request.
//!
//! The lists are the registry's; here they are only looked things up in. Browsers cannot leave out or forge `Origin`, so
//! a list of origins keeps a page's key off other pages; it keeps out nobody who calls without a browser.

use std::collections::HashSet;

use axum::http::{HeaderMap, HeaderValue, header};

use super::refusal::Refusal;
use crate::event::Kind;
use crate::event::parse::Admits;
use crate::registry::Permits;

/// Characters of an origin told back.
const SHOWN_CHARS: usize = 120;

/// The lists of one source.
#[derive(Debug, Default)]
pub(super) struct Permit {
    origins: Option<Origins>,
    names: Option<Names>,
    types: Option<Vec<Kind>>,
}

#[derive(Debug, Default)]
struct Origins {
    exact: HashSet<String>,
    /// Scheme with `://`, and what a host must end in.
    wild: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Names {
    exact: HashSet<String>,
    beginnings: Vec<String>,
}

impl Permit {
    pub(super) fn new(permits: &Permits) -> Self {
        Self {
            origins: permits.origins.as_ref().map(|entries| {
                let mut origins = Origins::default();
                for entry in entries {
                    match entry.split_once('*') {
                        Some((scheme, end)) => origins.wild.push((scheme.into(), end.into())),
                        None => drop(origins.exact.insert(entry.clone())),
                    }
                }
                origins
            }),
            names: permits.events.as_ref().map(|entries| {
                let mut names = Names::default();
                for entry in entries {
                    match entry.strip_suffix('*') {
                        Some(beginning) => names.beginnings.push(beginning.into()),
                        None => drop(names.exact.insert(entry.clone())),
                    }
                }
                names
            }),
            types: permits.types.clone(),
        }
    }

    /// What events are held to, if to anything.
    pub(super) fn admits(&self) -> Option<&dyn Admits> {
        (self.names.is_some() || self.types.is_some()).then_some(self)
    }

    /// Whether a page of this origin may use the source's keys.
    pub(super) fn has_origin(&self, origin: &str) -> bool {
        self.origins.as_ref().is_none_or(|list| list.has(origin))
    }

    /// Refuses a page that may not use the source's keys. For one that may because it is listed, the origin to name in
    /// the answer.
    pub(super) fn page(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
        let (Some(list), Some(value)) = (&self.origins, headers.get(header::ORIGIN)) else {
            return Ok(None);
        };
        let origin = String::from_utf8_lossy(value.as_bytes());
        if list.has(&origin) {
            return Ok(Some(value.clone()));
        }
        Err(Refusal::Origin(shown(&origin)))
    }
}

impl Admits for Permit {
    fn kind(&self, kind: Kind) -> bool {
        self.types
            .as_ref()
            .is_none_or(|types| types.contains(&kind))
    }

    fn name(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| {
            names.exact.contains(name)
                || names
                    .beginnings
                    .iter()
                    .any(|start| name.starts_with(start.as_str()))
        })
    }

    fn names(&self) -> bool {
        self.names.is_some()
    }
}

impl Origins {
    fn has(&self, origin: &str) -> bool {
        // Browsers send lower case already; others that name an origin may not.
        let origin = origin.to_ascii_lowercase();
        self.exact.contains(&origin)
            || self.wild.iter().any(|(scheme, end)| {
                let label = origin
                    .strip_prefix(scheme.as_str())
                    .and_then(|rest| rest.strip_suffix(end.as_str()));
                label.is_some_and(|label| {
                    let lawful = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
                    !label.is_empty() && label.chars().all(lawful)
                })
            })
    }
}

/// An origin as it may be told back.
pub(super) fn shown(origin: &str) -> String {
    origin.chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_labels_of_a_host_and_nothing_else() {
        let permit = Permit::new(&Permits {
            origins: Some(vec!["https://*.shop.example".to_owned()]),
            ..Permits::default()
        });
        for (origin, fits) in [
            ("https://www.shop.example", true),
            ("https://a.b.shop.example", true),
            ("HTTPS://WWW.Shop.Example", true),
            ("https://shop.example", false),
            ("https://.shop.example", false),
            ("http://www.shop.example", false),
            ("https://www.shop.example:8443", false),
            ("https://evil.example/.shop.example", false),
            ("https://user@www.shop.example", false),
            ("https://wwwshop.example", false),
            ("null", false),
        ] {
            assert_eq!(permit.has_origin(origin), fits, "{origin}");
        }
    }
}
