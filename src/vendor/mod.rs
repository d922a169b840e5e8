//! How one vendor talks, and the one outbound client. Vendors are pure: no retries, no journal, no clock.
//!
//! Most of what a vendor needs stands in its blueprint; a folder here holds only what data cannot say.

use serde_json::Value;

use crate::blueprint::{Config, FieldFault};

pub mod http;

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
}
