//! A flag decision: what an SDK, an Agent or the gateway itself decided for a user, and its canonical record.
//!
//! [`posted`] reads the shapes decisions are reported in, [`slug`] names a flag for vendors that take few
//! characters, and [`Facts`] is what a datafile adds. Asks no datafile: whoever accepts hands in [`Rules`].
//!
//! Rules that are not in the names of things:
//! - Empty text, null, an empty object and an empty array are absent: SDKs disagree on which one they send.
//! - A number is stored in its shortest plain form (`0.0` and `0` are one number; Python writes the first).
//! - What the report says wins over the datafile; the datafile only fills in what is missing.

mod accept;
pub mod label;
pub mod posted;
pub mod slug;

#[cfg(test)]
mod tests;

use bytes::{BufMut as _, BytesMut};
use serde_json::{Map, Number, Value};
use uuid::Uuid;

pub use crate::datafile::RuleKind;

/// Who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An SDK inside an app.
    Sdk,
    /// An Optimizely Agent.
    Agent,
    /// This gateway, by `POST /v1/decide`.
    Gateway,
}

impl Origin {
    /// The word in the record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sdk => "sdk",
            Self::Agent => "agent",
            Self::Gateway => "gateway",
        }
    }
}

/// One decision. Make one with [`Decision::of`], set what is known, [`Decision::enrich`] it, write its [`Decision::record`].
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Who decided.
    pub origin: Origin,
    /// The flag.
    pub flag_key: String,
    /// The flag's name for vendors that take few characters; see [`slug`].
    pub flag_slug: String,
    /// The flag is on for the user.
    pub enabled: bool,
    /// The variation, if any.
    pub variation_key: Option<String>,
    /// The rule that decided, if any.
    pub rule_key: Option<String>,
    /// Its kind; none when no datafile knows the flag.
    pub rule_kind: Option<RuleKind>,
    /// Key of the rule's experiment.
    pub experiment_key: Option<String>,
    /// Id of the rule's experiment; opaque (`rollout-103` is one).
    pub experiment_id: Option<String>,
    /// Id of the variation.
    pub variation_id: Option<String>,
    /// Id of the rule's layer ("campaign" on the wire).
    pub layer_id: Option<String>,
    /// Revision of the datafile that `rule_kind` is from.
    pub revision: Option<String>,
    /// The SDK has sent, or will send, an impression for this decision by itself.
    pub dispatched: Option<bool>,
    /// An impression has to be sent for it: only for the gateway's own decisions.
    pub impression: bool,
    /// A holdout the user is in although a delivery rule decided; it has an impression of its own.
    pub held_out: Option<HeldOut>,
    /// Values of the flag's variables.
    pub variables: Map<String, Value>,
    /// Why, in the SDK's words: they differ from SDK to SDK.
    pub reasons: Vec<Value>,
    /// Attributes the decision was made with.
    pub attributes: Map<String, Value>,
    /// Id of a contextual bandit's decision.
    pub cmab_uuid: Option<String>,
}

/// A holdout that lets users into delivery rules, reported beside the decision of such a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldOut {
    /// Id of the holdout.
    pub experiment_id: String,
    /// Its key.
    pub rule_key: String,
    /// Id of its variation.
    pub variation_id: String,
    /// Key of its variation.
    pub variation_key: String,
    /// Whether that variation is on.
    pub enabled: bool,
    /// What its impression is known by; the event's id is the decision's own.
    pub impression_id: Uuid,
}

impl HeldOut {
    fn to_json(&self) -> Value {
        serde_json::json!({
            "experimentId": self.experiment_id,
            "ruleKey": self.rule_key,
            "variationId": self.variation_id,
            "variationKey": self.variation_key,
            "enabled": self.enabled,
            "impressionId": self.impression_id.to_string(),
        })
    }
}

/// What the datafile says about a decision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The flag's slug among all flags of the datafile.
    pub slug: Option<String>,
    /// Kind of the rule.
    pub rule_kind: Option<RuleKind>,
    /// Key of the rule's experiment.
    pub experiment_key: Option<String>,
    /// Id of the rule's experiment.
    pub experiment_id: Option<String>,
    /// Id of the variation.
    pub variation_id: Option<String>,
    /// Id of the rule's layer.
    pub layer_id: Option<String>,
    /// Revision of the datafile.
    pub revision: Option<String>,
}

/// Knows flags and rules. Implemented over the published datafiles.
pub trait Rules {
    /// What is known about a decision by its keys; all empty when no datafile knows the flag.
    fn facts(&self, flag_key: &str, rule_key: Option<&str>, variation_key: Option<&str>) -> Facts;
}

/// Knows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRules;

impl Rules for NoRules {
    fn facts(&self, _: &str, _: Option<&str>, _: Option<&str>) -> Facts {
        Facts::default()
    }
}

impl Decision {
    /// A decision with nothing known but the flag.
    #[must_use]
    pub fn of(origin: Origin, flag_key: impl Into<String>, enabled: bool) -> Self {
        let flag_key = flag_key.into();
        Self {
            origin,
            flag_slug: slug::alone(&flag_key),
            flag_key,
            enabled,
            variation_key: None,
            rule_key: None,
            rule_kind: None,
            experiment_key: None,
            experiment_id: None,
            variation_id: None,
            layer_id: None,
            revision: None,
            dispatched: None,
            impression: false,
            held_out: None,
            variables: Map::new(),
            reasons: Vec::new(),
            attributes: Map::new(),
            cmab_uuid: None,
        }
    }

    /// Fills in what a datafile knows and the report did not say.
    pub fn enrich(&mut self, rules: &dyn Rules) {
        let facts = rules.facts(
            &self.flag_key,
            self.rule_key.as_deref(),
            self.variation_key.as_deref(),
        );
        if let Some(slug) = facts.slug {
            self.flag_slug = slug;
        }
        let fill = |own: &mut Option<String>, known: Option<String>| {
            if own.is_none() {
                *own = known.filter(|known| !known.is_empty());
            }
        };
        self.rule_kind = self.rule_kind.or(facts.rule_kind);
        fill(&mut self.experiment_key, facts.experiment_key);
        fill(&mut self.experiment_id, facts.experiment_id);
        fill(&mut self.variation_id, facts.variation_id);
        fill(&mut self.layer_id, facts.layer_id);
        fill(&mut self.revision, facts.revision);
    }

    /// The `decision` member of the canonical record.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        let mut out = Map::new();
        out.insert("type".to_owned(), "flag".into());
        out.insert("flagKey".to_owned(), self.flag_key.as_str().into());
        out.insert("flagSlug".to_owned(), self.flag_slug.as_str().into());
        out.insert("enabled".to_owned(), self.enabled.into());
        let kind = self.rule_kind.map(|kind| kind.as_str().to_owned());
        for (key, value) in [
            ("variationKey", &self.variation_key),
            ("ruleKey", &self.rule_key),
            ("ruleKind", &kind),
            ("experimentKey", &self.experiment_key),
            ("experimentId", &self.experiment_id),
            ("variationId", &self.variation_id),
            ("layerId", &self.layer_id),
            ("revision", &self.revision),
        ] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                out.insert(key.to_owned(), value.into());
            }
        }
        if let Some(dispatched) = self.dispatched {
            out.insert("decisionEventDispatched".to_owned(), dispatched.into());
        }
        if self.impression {
            out.insert("impression".to_owned(), true.into());
        }
        if let Some(held) = &self.held_out {
            out.insert("heldOut".to_owned(), held.to_json());
        }
        if !self.variables.is_empty() {
            let variables = Value::Object(self.variables.clone());
            out.insert("variables".to_owned(), plain(variables));
        }
        if !self.reasons.is_empty() {
            out.insert("reasons".to_owned(), self.reasons.clone().into());
        }
        if !self.attributes.is_empty() {
            let attributes = Value::Object(self.attributes.clone());
            out.insert("attributes".to_owned(), plain(attributes));
        }
        if let Some(uuid) = self.cmab_uuid.as_deref().filter(|uuid| !uuid.is_empty()) {
            out.insert("cmabUuid".to_owned(), uuid.into());
        }
        out.insert("origin".to_owned(), self.origin.as_str().into());
        out
    }

    /// Ends a record whose head and members are already in `out`.
    pub(super) fn write_tail(&self, out: &mut BytesMut) {
        out.put_slice(b",\"decision\":");
        out.put_slice(Value::Object(self.to_json()).to_string().as_bytes());
        out.put_u8(b'}');
    }
}

/// The same value with every number in its shortest plain form.
fn plain(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::Number(plain_number(number)),
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect()),
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .map(|(key, value)| (key, plain(value)))
                .collect(),
        ),
        other => other,
    }
}

/// `0.0` to `0`, `1e+16` to `10000000000000000`, `1e-07` to `0.0000001`; numbers with more digits than an exact
/// decimal has stay as they were written.
fn plain_number(number: Number) -> Number {
    /// No double needs more to be told from its neighbours; beyond it reading could round.
    const CHARS_MAX: usize = 26;
    let text = number.as_str();
    if text.len() > CHARS_MAX || !text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        return number;
    }
    let exact = if text.contains(['e', 'E']) {
        rust_decimal::Decimal::from_scientific(text)
    } else {
        rust_decimal::Decimal::from_str_exact(text)
    };
    // What is too small for an exact decimal is read as zero.
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let zero = !mantissa.contains(|c| matches!(c, '1'..='9'));
    exact
        .ok()
        .filter(|exact| exact.is_zero() == zero)
        .and_then(|exact| exact.normalize().to_string().parse().ok())
        .unwrap_or(number)
}
