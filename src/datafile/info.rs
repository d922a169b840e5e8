//! What a decision's keys stand for: SDK notifications name a rule and a variation, vendors want to know which kind of
//! rule it was and its ids.

use super::{Datafile, Rule};

/// Which kind of rule decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuleKind {
    /// An experiment: variations are compared.
    Experiment,
    /// A delivery rule for some.
    Rollout,
    /// The last delivery rule, for whoever is left.
    EveryoneElse,
    /// The user is held out.
    Holdout,
    /// The app forced the variation for the whole flag.
    Forced,
    /// No rule decided.
    None,
}

impl RuleKind {
    /// Its word in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Experiment => "experiment",
            Self::Rollout => "rollout",
            Self::EveryoneElse => "everyone_else",
            Self::Holdout => "holdout",
            Self::Forced => "forced",
            Self::None => "none",
        }
    }
}

/// What the datafile knows of a rule and its variation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleInfo<'d> {
    /// Kind of the rule.
    pub kind: RuleKind,
    /// Id of the rule (experiment, delivery rule or holdout).
    pub experiment_id: Option<&'d str>,
    /// Key of the rule.
    pub experiment_key: Option<&'d str>,
    /// Its campaign; a holdout has none.
    pub layer_id: Option<&'d str>,
    /// Id of the variation.
    pub variation_id: Option<&'d str>,
}

impl Datafile {
    /// What a decision's rule and variation are; none when the datafile does not know the flag, or the flag has no such
    /// rule (it is older or newer than the decision). Without a rule key it was the whole flag that was forced, or
    /// nothing matched.
    #[must_use]
    pub fn rule_info(
        &self,
        flag: &str,
        rule_key: Option<&str>,
        variation_key: Option<&str>,
    ) -> Option<RuleInfo<'_>> {
        let flag = self.flag(flag)?;
        let Some(rule_key) = rule_key else {
            let variation = variation_key.and_then(|key| flag.variation(key));
            return Some(RuleInfo {
                kind: match variation_key {
                    Some(_) => RuleKind::Forced,
                    None => RuleKind::None,
                },
                experiment_id: None,
                experiment_key: None,
                layer_id: None,
                variation_id: variation.map(|variation| variation.id.as_str()),
            });
        };
        let found = |kind, rule: &std::sync::Arc<Rule>| (rule.key == rule_key).then_some(kind);
        let last = flag.rollout.len().saturating_sub(1);
        let experiments = flag
            .experiments
            .iter()
            .map(|rule| (RuleKind::Experiment, rule));
        let rollout = flag.rollout.iter().enumerate().map(|(index, rule)| {
            let kind = if index == last {
                RuleKind::EveryoneElse
            } else {
                RuleKind::Rollout
            };
            (kind, rule)
        });
        let holdouts = self
            .holdouts
            .iter()
            .chain(flag.rules().flat_map(|rule| &rule.holdouts))
            .map(|rule| (RuleKind::Holdout, rule));
        let (kind, rule) = experiments
            .chain(rollout)
            .chain(holdouts)
            .find(|(kind, rule)| found(*kind, rule).is_some())?;
        let variation = variation_key.and_then(|key| {
            rule.variation(key)
                .or_else(|| (kind != RuleKind::Holdout).then(|| flag.variation(key))?)
        });
        Some(RuleInfo {
            kind,
            experiment_id: Some(&rule.id),
            experiment_key: Some(&rule.key),
            layer_id: rule.layer_id.as_deref(),
            variation_id: variation.map(|variation| variation.id.as_str()),
        })
    }
}
