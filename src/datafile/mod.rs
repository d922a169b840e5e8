//! The Optimizely datafile, read and evaluated: which flags there are, and which variation of a flag a user gets.
//!
//! [`Datafile::parse`] reads the document once into an index; [`Datafile::decide`] then answers as the official SDKs do
//! (JavaScript 6.6.1 is the reference where they differ). [`Shared`] is where the newest datafile of each integration is
//! published. Pure: no I/O, no clock, no chance; segments of a user are handed in.
//!
//! Reading is lenient as the SDKs are: unknown members are ignored, lists may be absent, and an entry that makes no sense
//! is left out. What an audience asks in a way not known here is *unknown*, and unknown never lets a user in.

mod audience;
mod bucket;
mod cast;
mod decide;
mod flags;
mod info;
mod options;
mod read;
mod semver;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use audience::Tree;

pub use audience::Traits;
pub use decide::{Decision, Forced, HeldOut, RuleType, User};
pub use flags::Flags;
pub use info::{RuleInfo, RuleKind};
pub use options::{Options, UnknownOption};
pub use shared::{Known, Shared};

/// Why a document is no datafile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not JSON.
    #[error("the datafile is not JSON: {0}")]
    NotJson(String),
    /// JSON, but no object.
    #[error("the datafile is not a JSON object")]
    NotAnObject,
    /// Written for an evaluator this is not.
    #[error("datafile version {0:?} is not known; versions \"2\", \"3\" and \"4\" are read")]
    Version(String),
}

/// Where segments of users are asked: the datafile's integration named `odp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Odp {
    /// Its base address, as `https://api.zaius.com`.
    pub host: String,
    /// What it is asked with.
    pub public_key: String,
}

/// A datafile, indexed for deciding.
#[derive(Debug, Clone, Default)]
pub struct Datafile {
    revision: String,
    sdk_key: Option<String>,
    send_flag_decisions: bool,
    flags: Vec<Flag>,
    flag_by_key: HashMap<String, usize>,
    audiences: Vec<Tree>,
    groups: Vec<Group>,
    /// Global ones, in the order of the file.
    holdouts: Vec<Arc<Rule>>,
    segments: Vec<String>,
    odp: Option<Odp>,
}

/// A flag, with its rules in the order they are tried.
#[derive(Debug, Clone)]
struct Flag {
    key: String,
    experiments: Vec<Arc<Rule>>,
    rollout: Vec<Arc<Rule>>,
    /// Id, key and value of each variable while the flag is off.
    variables: Vec<(String, String, Value)>,
    /// The same as an answer.
    defaults: Map<String, Value>,
}

/// An experiment, a delivery rule of a rollout, or a holdout.
#[derive(Debug, Clone, Default)]
struct Rule {
    id: String,
    key: String,
    /// The campaign, as events name it.
    layer_id: Option<String>,
    running: bool,
    variations: Vec<Variation>,
    allocation: Vec<Share>,
    audience: Audience,
    /// User id to variation key.
    whitelist: HashMap<String, String>,
    /// Index in [`Datafile::groups`].
    group: Option<usize>,
    /// Of 10,000: who is decided by Optimizely's prediction service; none for all other rules.
    cmab: Option<u32>,
    /// Holdouts that list this rule.
    holdouts: Vec<Arc<Rule>>,
    /// A holdout that lets users into delivery rules nevertheless.
    spares_deliveries: bool,
    /// An experiment whose rest of traffic gets what the last delivery rule gives.
    feature_rollout: bool,
}

#[derive(Debug, Clone, Default)]
struct Variation {
    id: String,
    key: String,
    enabled: bool,
    /// Variable id to value.
    values: HashMap<String, Value>,
}

/// One range of a traffic allocation: users below `end` who are in no earlier range. None: nobody gets anything.
#[derive(Debug, Clone)]
struct Share {
    end: u32,
    variation: Option<usize>,
}

/// Who may be let in: nobody is asked, or a tree over audiences.
#[derive(Debug, Clone, Default)]
enum Audience {
    #[default]
    Everyone,
    Of(Tree),
}

/// Experiments that exclude each other.
#[derive(Debug, Clone)]
struct Group {
    id: String,
    /// End of range and experiment id.
    allocation: Vec<(u32, String)>,
}

impl Datafile {
    /// Reads a datafile.
    ///
    /// # Errors
    /// When the text is no JSON object, or of another major version.
    pub fn parse(text: &[u8]) -> Result<Self, ReadError> {
        let document =
            serde_json::from_slice(text).map_err(|error| ReadError::NotJson(error.to_string()))?;
        Self::read(&document)
    }

    /// Reads a datafile that was parsed already.
    ///
    /// # Errors
    /// When it is no object, or of another major version.
    pub fn read(document: &Value) -> Result<Self, ReadError> {
        read::datafile(document)
    }

    /// Its revision, as the file says it.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The SDK key it was made for, when it says so.
    #[must_use]
    pub fn sdk_key(&self) -> Option<&str> {
        self.sdk_key.as_deref()
    }

    /// Keys of its flags, in the order of the file.
    pub fn flag_keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.flags.iter().map(|flag| flag.key.as_str())
    }

    /// Whether it has this flag.
    #[must_use]
    pub fn has_flag(&self, key: &str) -> bool {
        self.flag_by_key.contains_key(key)
    }

    /// Names of the segments its audiences ask for.
    #[must_use]
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// Where segments of users are asked.
    #[must_use]
    pub fn odp(&self) -> Option<&Odp> {
        self.odp.as_ref()
    }

    fn flag(&self, key: &str) -> Option<&Flag> {
        self.flags.get(*self.flag_by_key.get(key)?)
    }
}

impl Flag {
    /// Experiments, then delivery rules.
    fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.experiments.iter().chain(&self.rollout)
    }

    /// The first variation of this key among its rules.
    fn variation(&self, key: &str) -> Option<&Variation> {
        self.rules().find_map(|rule| rule.variation(key))
    }
}

impl Rule {
    fn variation(&self, key: &str) -> Option<&Variation> {
        self.variations
            .iter()
            .find(|variation| variation.key == key)
    }
}
