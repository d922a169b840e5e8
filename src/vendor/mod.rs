//! How one vendor talks, and the one outbound client. Vendors are pure: no retries, no journal, no clock.
//!
//! Most of what a vendor needs stands in its blueprint; a folder here holds only what data cannot say.

use serde_json::Value;

use crate::blueprint::{Config, FieldFault};
use crate::datafile::{Datafile, ReadError};

pub mod guard;
pub mod http;
pub mod odp;
pub mod optimizely;
pub mod refresh;

/// What data cannot say about a vendor.
pub trait Vendor: Send + Sync + std::fmt::Debug {
    /// Its name in the catalog.
    fn name(&self) -> &'static str;

    /// Faults of a config that can be seen without asking anybody (an account id that is not digits).
    fn check_config(&self, _config: &Config) -> Vec<FieldFault> {
        Vec::new()
    }

    /// Refuses a table document that is not this integration's own (another account or project).
    ///
    /// # Errors
    /// The faults, as fields of the config.
    fn check_document(&self, _config: &Config, _document: &Value) -> Result<(), Vec<FieldFault>> {
        Ok(())
    }

    /// The datafile in a table document, for deciding flags; none when the vendor has no such thing.
    ///
    /// # Errors
    /// When it is meant to be one and cannot be read.
    fn datafile(&self, _document: &Value) -> Option<Result<Datafile, ReadError>> {
        None
    }

    /// The end of the key its datafile is read with, for telling datafiles apart.
    fn sdk_key_tail(&self, _config: &Config) -> String {
        String::new()
    }

    /// The revision a table document says it is, for people and metrics.
    fn document_revision(&self, _document: &Value) -> Option<String> {
        None
    }

    /// Whose tables the config asks for: a copy on disk is used again only while this stays the same.
    fn owner(&self, _config: &Config) -> String {
        String::new()
    }

    /// The token to read table documents with, when they are not public.
    fn document_token(&self, _config: &Config) -> Option<crate::secret::Secret> {
        None
    }

    /// Names of events a table document knows, for choosing one to test with; none when any name will do.
    fn event_keys(&self, _document: &Value) -> Option<Vec<String>> {
        None
    }

    /// Headers that make the vendor say what is wrong with a test event.
    fn test_headers(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }
}

/// The vendor of that name, if there is anything data cannot say about it.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn Vendor> {
    match name {
        "optimizely" => Some(&optimizely::Optimizely),
        _ => None,
    }
}
