//! Which variation of a flag a user gets, and why.
//!
//! The order of the rules and every quirk in it are the SDKs'; a step that looks odd here is one that was found so by
//! comparing with them. Two differences are wanted: nothing is remembered about users between calls (no sticky
//! profiles), and a rule that Optimizely's prediction service would decide (CMAB) is refused by name.

use serde_json::{Map, Value};

use super::audience::Traits;
use super::bucket::bucket;
use super::{Audience, Datafile, Flag, Options, Rule, RuleKind, Variation};

/// Why a flag was not decided: its rule needs Optimizely's prediction service.
const CMAB: &str = "cmab_unsupported";

/// The attribute that stands in for the user id when bucketing.
const BUCKETING_ID: &str = "$opt_bucketing_id";

/// Whom to decide for.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// The user's id.
    pub id: &'a str,
    /// Attributes and segments.
    pub traits: Traits<'a>,
    /// Variations the app wants whatever the rules say.
    pub forced: &'a [Forced],
}

/// A variation forced for a flag, or for one rule of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forced {
    /// The flag.
    pub flag_key: String,
    /// The rule; none: the flag as a whole.
    pub rule_key: Option<String>,
    /// What it shall be.
    pub variation_key: String,
}

/// What impressions call the kind of a rule (`rule_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleType {
    /// An experiment, or a variation forced for a flag.
    FeatureTest,
    /// A delivery rule, or nothing.
    Rollout,
    /// A holdout.
    Holdout,
}

/// A holdout the user is in although a delivery rule decided: it is reported beside the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldOut<'d> {
    /// Id of the holdout.
    pub id: &'d str,
    /// Its key.
    pub key: &'d str,
    /// Id of its variation.
    pub variation_id: &'d str,
    /// Key of its variation.
    pub variation_key: &'d str,
    /// Whether that variation is on.
    pub enabled: bool,
}

/// A decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision<'d> {
    /// The flag, as it was asked for.
    pub flag_key: &'d str,
    /// The variation; none when no rule had one.
    pub variation_key: Option<&'d str>,
    /// Whether the flag is on.
    pub enabled: bool,
    /// Key of the rule or holdout that decided.
    pub rule_key: Option<&'d str>,
    /// Kind of that rule.
    pub kind: RuleKind,
    /// The same, as impressions say it.
    pub rule_type: RuleType,
    /// Id of that rule.
    pub experiment_id: Option<&'d str>,
    /// Id of the variation.
    pub variation_id: Option<&'d str>,
    /// Campaign of the rule.
    pub layer_id: Option<&'d str>,
    /// Values of the flag's variables, unless excluded.
    pub variables: Map<String, Value>,
    /// How it came about, when asked for, and errors always.
    pub reasons: Vec<String>,
    /// The decision's impression is to be sent.
    pub impression: bool,
    /// A second impression is to be sent.
    pub held_out: Option<HeldOut<'d>>,
    /// The flag could not be decided; the decision is the one for "nothing", and nothing is to be reported.
    pub error: Option<&'static str>,
}

/// What the rules gave.
struct Found<'d> {
    rule: Option<&'d Rule>,
    variation: Option<&'d Variation>,
    kind: RuleKind,
    rule_type: RuleType,
}

/// Reasons, kept only when somebody wants them.
struct Reasons(Option<Vec<String>>);

impl Reasons {
    fn say(&mut self, reason: impl FnOnce() -> String) {
        if let Some(reasons) = &mut self.0 {
            reasons.push(reason());
        }
    }
}

/// Rules that end deciding without a variation.
enum Stop {
    Cmab,
}

impl Datafile {
    /// Decides one flag.
    #[must_use]
    pub fn decide<'d>(
        &'d self,
        flag_key: &'d str,
        user: User<'_>,
        options: Options,
    ) -> Decision<'d> {
        let Some(flag) = self.flag(flag_key) else {
            return Decision::none(
                flag_key,
                "unknown_flag",
                format!("No flag was found for key \"{flag_key}\"."),
            );
        };
        let mut run = Run {
            datafile: self,
            flag,
            user,
            bucketing_id: user
                .traits
                .attributes
                .get(BUCKETING_ID)
                .and_then(Value::as_str)
                .unwrap_or(user.id),
            reasons: Reasons(options.include_reasons.then(Vec::new)),
            held_out: None,
        };
        let found = match run.find() {
            Ok(found) => found,
            Err(Stop::Cmab) => {
                return Decision::none(
                    flag_key,
                    CMAB,
                    format!(
                        "{CMAB}: a rule of flag \"{flag_key}\" leaves the choice to Optimizely's prediction service \
                         (CMAB), which this gateway does not ask; decide this flag with an SDK and report the decision"
                    ),
                );
            }
        };
        let enabled = found.variation.is_some_and(|variation| variation.enabled);
        let sends = !options.disable_decision_event;
        Decision {
            flag_key,
            variation_key: found.variation.map(|variation| variation.key.as_str()),
            enabled,
            rule_key: found.rule.map(|rule| rule.key.as_str()),
            kind: found.kind,
            rule_type: found.rule_type,
            experiment_id: found.rule.map(|rule| rule.id.as_str()),
            variation_id: found.variation.map(|variation| variation.id.as_str()),
            layer_id: found.rule.and_then(|rule| rule.layer_id.as_deref()),
            variables: if options.exclude_variables {
                Map::new()
            } else {
                flag.values(found.variation.filter(|_| enabled))
            },
            reasons: run.reasons.0.unwrap_or_default(),
            impression: sends && (self.send_flag_decisions || found.rule_type != RuleType::Rollout),
            held_out: run
                .held_out
                .filter(|_| sends)
                .and_then(|found| found.held_out()),
            error: None,
        }
    }
}

impl<'d> Decision<'d> {
    /// Nothing was decided: an error, which no option leaves out of the reasons.
    fn none(flag_key: &'d str, error: &'static str, reason: String) -> Self {
        Self {
            flag_key,
            variation_key: None,
            enabled: false,
            rule_key: None,
            kind: RuleKind::None,
            rule_type: RuleType::Rollout,
            experiment_id: None,
            variation_id: None,
            layer_id: None,
            variables: Map::new(),
            reasons: vec![reason],
            impression: false,
            held_out: None,
            error: Some(error),
        }
    }
}

impl Flag {
    /// Values of its variables under a variation that is on; defaults without one.
    fn values(&self, variation: Option<&Variation>) -> Map<String, Value> {
        let Some(variation) = variation.filter(|variation| !variation.values.is_empty()) else {
            return self.defaults.clone();
        };
        self.variables
            .iter()
            .map(|(id, key, default)| {
                let value = variation.values.get(id).unwrap_or(default);
                (key.clone(), value.clone())
            })
            .collect()
    }
}

impl<'d> Found<'d> {
    fn held_out(&self) -> Option<HeldOut<'d>> {
        let (rule, variation) = (self.rule?, self.variation?);
        Some(HeldOut {
            id: &rule.id,
            key: &rule.key,
            variation_id: &variation.id,
            variation_key: &variation.key,
            enabled: variation.enabled,
        })
    }
}

/// One flag being decided for one user.
struct Run<'d, 'u> {
    datafile: &'d Datafile,
    flag: &'d Flag,
    user: User<'u>,
    bucketing_id: &'u str,
    reasons: Reasons,
    /// A holdout that lets the user into delivery rules.
    held_out: Option<Found<'d>>,
}

impl<'d> Run<'d, '_> {
    fn find(&mut self) -> Result<Found<'d>, Stop> {
        if let Some(variation) = self.forced(None) {
            return Ok(Found {
                rule: None,
                variation: Some(variation),
                kind: RuleKind::Forced,
                rule_type: RuleType::FeatureTest,
            });
        }
        for holdout in &self.datafile.holdouts {
            let Some(found) = self.holdout(holdout) else {
                continue;
            };
            if !holdout.spares_deliveries {
                return Ok(found);
            }
            self.held_out = Some(found);
            break;
        }
        if self.held_out.is_none() {
            for rule in &self.flag.experiments {
                if let Some(found) = self.experiment(rule)? {
                    return Ok(found);
                }
            }
        }
        Ok(self.rollout().unwrap_or(Found {
            rule: None,
            variation: None,
            kind: RuleKind::None,
            rule_type: RuleType::Rollout,
        }))
    }

    /// The variation the app forced, when the flag has it.
    fn forced(&mut self, rule: Option<&str>) -> Option<&'d Variation> {
        let forced = self.user.forced.iter().rev().find(|forced| {
            forced.flag_key == self.flag.key && forced.rule_key.as_deref() == rule
        })?;
        let variation = self.flag.variation(&forced.variation_key);
        let (user, flag) = (self.user.id, &self.flag.key);
        let place = || rule.map_or_else(String::new, |rule| format!(", rule ({rule})"));
        self.reasons.say(|| match variation {
            Some(variation) => format!(
                "Variation ({}) is mapped to flag ({flag}){} and user ({user}) in the forced decision map.",
                variation.key,
                place()
            ),
            None => format!(
                "Invalid variation is mapped to flag ({flag}){} and user ({user}) in the forced decision map.",
                place()
            ),
        });
        variation
    }

    fn holdout(&mut self, holdout: &'d Rule) -> Option<Found<'d>> {
        if !holdout.running {
            let key = &holdout.key;
            self.reasons
                .say(|| format!("Holdout {key} is not running."));
            return None;
        }
        if !self.lets_in(holdout) {
            return None;
        }
        let variation = self.bucketed(holdout)?;
        let (user, key) = (self.user.id, &holdout.key);
        self.reasons
            .say(|| format!("User {user} is in holdout {key}."));
        Some(Found {
            rule: Some(holdout),
            variation: Some(variation),
            kind: RuleKind::Holdout,
            rule_type: RuleType::Holdout,
        })
    }

    /// Holdouts that list this rule.
    fn local_holdouts(&mut self, rule: &'d Rule) -> Option<Found<'d>> {
        rule.holdouts
            .iter()
            .find_map(|holdout| self.holdout(holdout))
    }

    fn experiment(&mut self, rule: &'d Rule) -> Result<Option<Found<'d>>, Stop> {
        let found = |variation| {
            Some(Found {
                rule: Some(rule),
                variation: Some(variation),
                kind: RuleKind::Experiment,
                rule_type: RuleType::FeatureTest,
            })
        };
        if let Some(variation) = self.forced(Some(&rule.key)) {
            return Ok(found(variation));
        }
        if let Some(held) = self.local_holdouts(rule) {
            return Ok(Some(held));
        }
        let (user, key) = (self.user.id, &rule.key);
        if !rule.running {
            self.reasons
                .say(|| format!("Experiment {key} is not running."));
            return Ok(None);
        }
        if let Some(variation) = self.whitelisted(rule) {
            return Ok(found(variation));
        }
        if !self.lets_in(rule) || !self.in_group(rule) {
            return Ok(None);
        }
        if let Some(share) = rule.cmab {
            if bucket(self.bucketing_id, &rule.id) < share {
                return Err(Stop::Cmab);
            }
            self.reasons
                .say(|| format!("User {user} is not in the traffic of CMAB experiment {key}."));
            return Ok(None);
        }
        let variation = self.bucketed(rule);
        self.reasons.say(|| match variation {
            Some(variation) => format!(
                "User {user} is in variation {} of experiment {key}.",
                variation.key
            ),
            None => format!("User {user} is in no variation."),
        });
        Ok(variation.and_then(found))
    }

    /// The variation its experiment lists this user for.
    fn whitelisted(&mut self, rule: &'d Rule) -> Option<&'d Variation> {
        let user = self.user.id;
        let key = rule.whitelist.get(user)?;
        let variation = rule.variation(key);
        self.reasons.say(|| match variation {
            Some(_) => format!("User {user} is forced in variation {key}."),
            None => format!("Variation key {key} is not in datafile. Not activating user {user}."),
        });
        variation
    }

    fn rollout(&mut self) -> Option<Found<'d>> {
        let last = self.flag.rollout.len().checked_sub(1)?;
        let mut at = 0;
        while let Some(rule) = self.flag.rollout.get(at) {
            let found = |variation| {
                Some(Found {
                    rule: Some(rule),
                    variation: Some(variation),
                    kind: if at == last {
                        RuleKind::EveryoneElse
                    } else {
                        RuleKind::Rollout
                    },
                    rule_type: RuleType::Rollout,
                })
            };
            if let Some(variation) = self.forced(Some(&rule.key)) {
                return found(variation);
            }
            if let Some(held) = self.local_holdouts(rule) {
                return Some(held);
            }
            if !self.lets_in(rule) {
                at += 1;
                continue;
            }
            let (user, key) = (self.user.id, &rule.key);
            if let Some(variation) = self.bucketed(rule) {
                self.reasons
                    .say(|| format!("User {user} bucketed into targeting rule {key}."));
                return found(variation);
            }
            self.reasons
                .say(|| format!("User {user} not bucketed into targeting rule {key}."));
            if at == last {
                return None;
            }
            // Outside a delivery's traffic: the ones between do not matter any more.
            at = last;
        }
        None
    }

    fn lets_in(&mut self, rule: &Rule) -> bool {
        let holds = match &rule.audience {
            Audience::Everyone => Some(true),
            Audience::Of(tree) => tree.holds(&self.datafile.audiences, self.user.traits),
        };
        let key = &rule.key;
        self.reasons.say(|| {
            let word = match holds {
                Some(true) => "TRUE",
                Some(false) => "FALSE",
                None => "UNKNOWN",
            };
            format!("Audiences for rule {key} collectively evaluated to {word}.")
        });
        holds == Some(true)
    }

    /// Of experiments that exclude each other, the user is in this one's part.
    fn in_group(&mut self, rule: &Rule) -> bool {
        let Some(group) = rule.group.and_then(|index| self.datafile.groups.get(index)) else {
            return true;
        };
        let bucket = bucket(self.bucketing_id, &group.id);
        let chosen = group.allocation.iter().find(|(end, _)| bucket < *end);
        let is_in = chosen.is_some_and(|(_, id)| *id == rule.id);
        let (user, key, group) = (self.user.id, &rule.key, &group.id);
        self.reasons.say(|| {
            let not = if is_in { "" } else { "not " };
            format!("User {user} is {not}in experiment {key} of group {group} (bucket {bucket}).")
        });
        is_in
    }

    fn bucketed(&mut self, rule: &'d Rule) -> Option<&'d Variation> {
        let bucket = self.bucket(&rule.id);
        let share = rule.allocation.iter().find(|share| bucket < share.end)?;
        rule.variations.get(share.variation?)
    }

    fn bucket(&mut self, parent: &str) -> u32 {
        let bucketing_id = self.bucketing_id;
        let bucket = bucket(bucketing_id, parent);
        self.reasons
            .say(|| format!("Assigned bucket {bucket} to user with bucketing ID {bucketing_id}."));
        bucket
    }
}
