//! From the document to the index. Every list may be absent, every entry may be odd.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::audience::Tree;
use super::cast::Type;
use super::{Audience, Datafile, Flag, Group, Odp, ReadError, Rule, Share, Variation};

pub(super) fn datafile(document: &Value) -> Result<Datafile, ReadError> {
    if !document.is_object() {
        return Err(ReadError::NotAnObject);
    }
    let version = text(document, "version").unwrap_or("4");
    if !matches!(version, "2" | "3" | "4") {
        return Err(ReadError::Version(version.chars().take(20).collect()));
    }
    let (audiences, audience_by_id) = audiences(document);
    let reader = Reader {
        audience_by_id,
        types: variable_types(document),
    };
    let mut experiments: HashMap<&str, Arc<Rule>> = HashMap::new();
    let mut groups = Vec::new();
    let mut add = |value, group| {
        if let Some(rule) = reader.rule(value, group) {
            experiments.insert(text(value, "id").unwrap_or_default(), rule);
        }
    };
    for value in list(document, "experiments") {
        add(value, None);
    }
    for value in list(document, "groups") {
        let exclusive = text(value, "policy") == Some("random");
        let index = exclusive.then_some(groups.len());
        for experiment in list(value, "experiments") {
            add(experiment, index);
        }
        if exclusive {
            groups.push(group(value));
        }
    }
    let local = reader.local_holdouts(document);
    let rollouts: HashMap<&str, Vec<Arc<Rule>>> = list(document, "rollouts")
        .map(|value| {
            let rules = list(value, "experiments").filter_map(|rule| reader.rule(rule, None));
            let rules = rules.map(|rule| with_holdouts(rule, &local)).collect();
            (text(value, "id").unwrap_or_default(), rules)
        })
        .collect();
    let experiments = experiments
        .into_iter()
        .map(|(id, rule)| (id, with_holdouts(rule, &local)))
        .collect();
    let flags: Vec<Flag> = list(document, "featureFlags")
        .filter_map(|value| reader.flag(value, &experiments, &rollouts))
        .collect();
    let mut flag_by_key = HashMap::new();
    for (index, flag) in flags.iter().enumerate() {
        flag_by_key.entry(flag.key.clone()).or_insert(index);
    }
    Ok(Datafile {
        revision: revision(document),
        sdk_key: text(document, "sdkKey").map(str::to_owned),
        send_flag_decisions: flagged(document, "sendFlagDecisions"),
        segments: segments(&audiences),
        flags,
        flag_by_key,
        groups,
        holdouts: list(document, "holdouts")
            .filter_map(|value| reader.rule(value, None))
            .collect(),
        audiences,
        odp: odp(document),
    })
}

fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key)?.as_str()
}

fn list<'v>(value: &'v Value, key: &str) -> std::slice::Iter<'v, Value> {
    let items = value.get(key).and_then(Value::as_array);
    items.map(Vec::as_slice).unwrap_or_default().iter()
}

fn flagged(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool) == Some(true)
}

fn revision(document: &Value) -> String {
    match document.get("revision") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn odp(document: &Value) -> Option<Odp> {
    let entry = list(document, "integrations").find(|value| text(value, "key") == Some("odp"))?;
    let part = |key| text(entry, key).filter(|text| !text.is_empty());
    Some(Odp {
        host: part("host")?.to_owned(),
        public_key: part("publicKey")?.to_owned(),
    })
}

/// All audiences and their places. A typed one wins over one of the same id whose conditions are a text: that is a
/// placeholder for SDKs of before.
fn audiences(document: &Value) -> (Vec<Tree>, HashMap<String, usize>) {
    let mut trees = Vec::new();
    let mut by_id = HashMap::new();
    for key in ["audiences", "typedAudiences"] {
        for value in list(document, key) {
            let Some(id) = text(value, "id") else {
                continue;
            };
            let tree = match value.get("conditions") {
                Some(Value::String(json)) => serde_json::from_str(json)
                    .map_or(Tree::Unknown, |tree| {
                        Tree::read(&tree, &mut Tree::condition)
                    }),
                Some(tree) => Tree::read(tree, &mut Tree::condition),
                None => Tree::Unknown,
            };
            by_id.insert(id.to_owned(), trees.len());
            trees.push(tree);
        }
    }
    (trees, by_id)
}

fn segments(audiences: &[Tree]) -> Vec<String> {
    let mut found = Vec::new();
    for audience in audiences {
        audience.segments(&mut found);
    }
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(str::to_owned).collect()
}

fn variable_types(document: &Value) -> HashMap<String, Type> {
    list(document, "featureFlags")
        .flat_map(|flag| list(flag, "variables"))
        .filter_map(|variable| Some((text(variable, "id")?.to_owned(), type_of(variable))))
        .collect()
}

fn type_of(variable: &Value) -> Type {
    Type::of(
        text(variable, "type").unwrap_or_default(),
        text(variable, "subType").unwrap_or_default(),
    )
}

/// End of range and what is below it, in the order of the file: order and repeated entries matter.
fn ranges(value: &Value) -> impl Iterator<Item = (u32, &str)> {
    list(value, "trafficAllocation").filter_map(|range| {
        let end = range.get("endOfRange")?.as_f64()?;
        // Buckets are whole: below 5000.5 is below 5001.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped"
        )]
        let end = end.ceil().clamp(0.0, 10_000.0) as u32;
        Some((end, text(range, "entityId").unwrap_or_default()))
    })
}

fn group(value: &Value) -> Group {
    Group {
        id: text(value, "id").unwrap_or_default().to_owned(),
        allocation: ranges(value)
            .map(|(end, id)| (end, id.to_owned()))
            .collect(),
    }
}

/// The rule with the holdouts that list it.
fn with_holdouts(rule: Arc<Rule>, local: &HashMap<String, Vec<Arc<Rule>>>) -> Arc<Rule> {
    let Some(holdouts) = local.get(&rule.id) else {
        return rule;
    };
    let mut rule = Arc::unwrap_or_clone(rule);
    rule.holdouts.clone_from(holdouts);
    Arc::new(rule)
}

/// What entries refer to.
struct Reader {
    audience_by_id: HashMap<String, usize>,
    types: HashMap<String, Type>,
}

impl Reader {
    fn rule(&self, value: &Value, group: Option<usize>) -> Option<Arc<Rule>> {
        let id = text(value, "id")?;
        let variations: Vec<Variation> = list(value, "variations")
            .filter_map(|variation| self.variation(variation))
            .collect();
        let allocation = ranges(value)
            .map(|(end, id)| Share {
                end,
                variation: variations.iter().position(|variation| variation.id == id),
            })
            .collect();
        let whitelist = value.get("forcedVariations").and_then(Value::as_object);
        Some(Arc::new(Rule {
            id: id.to_owned(),
            key: text(value, "key").unwrap_or(id).to_owned(),
            layer_id: text(value, "layerId")
                .filter(|layer| !layer.is_empty())
                .map(str::to_owned),
            running: text(value, "status") == Some("Running"),
            audience: self.audience(value),
            whitelist: whitelist
                .into_iter()
                .flatten()
                .filter_map(|(user, key)| Some((user.clone(), key.as_str()?.to_owned())))
                .collect(),
            group,
            cmab: cmab(value),
            holdouts: Vec::new(),
            spares_deliveries: flagged(value, "excludeTargetedDeliveries"),
            feature_rollout: text(value, "type") == Some("fr"),
            variations,
            allocation,
        }))
    }

    fn variation(&self, value: &Value) -> Option<Variation> {
        let values = list(value, "variables").filter_map(|variable| {
            let id = text(variable, "id")?;
            // Of no flag's variable: nobody will ask for it.
            let cast = self.types.get(id)?;
            Some((id.to_owned(), cast.cast(text(variable, "value")?)))
        });
        Some(Variation {
            id: text(value, "id")?.to_owned(),
            key: text(value, "key").unwrap_or_default().to_owned(),
            enabled: flagged(value, "featureEnabled"),
            values: values.collect(),
        })
    }

    /// Conditions over audiences when there are any, even an empty list; else the list of ids, any of them.
    fn audience(&self, value: &Value) -> Audience {
        let conditions = match value.get("audienceConditions") {
            None | Some(Value::Null) => value.get("audienceIds"),
            conditions => conditions,
        };
        match conditions {
            None | Some(Value::Null) => Audience::Everyone,
            Some(Value::Array(items)) if items.is_empty() => Audience::Everyone,
            Some(tree) => Audience::Of(Tree::read(tree, &mut |leaf| {
                let known = leaf.as_str().and_then(|id| self.audience_by_id.get(id));
                known.map_or(Tree::Unknown, |index| Tree::Audience(*index))
            })),
        }
    }

    /// By the rule they hold users out of. An entry that lists none is invalid and left out, as in the SDKs.
    fn local_holdouts(&self, document: &Value) -> HashMap<String, Vec<Arc<Rule>>> {
        let mut by_rule: HashMap<String, Vec<Arc<Rule>>> = HashMap::new();
        for value in list(document, "localHoldouts") {
            let Some(holdout) = self.rule(value, None) else {
                continue;
            };
            for rule in list(value, "includedRules").filter_map(Value::as_str) {
                by_rule
                    .entry(rule.to_owned())
                    .or_default()
                    .push(holdout.clone());
            }
        }
        by_rule
    }

    fn flag(
        &self,
        value: &Value,
        experiments: &HashMap<&str, Arc<Rule>>,
        rollouts: &HashMap<&str, Vec<Arc<Rule>>>,
    ) -> Option<Flag> {
        let rollout = text(value, "rolloutId")
            .and_then(|id| rollouts.get(id))
            .cloned()
            .unwrap_or_default();
        let everyone_else = rollout.last().and_then(|rule| rule.variations.first());
        let rules = list(value, "experimentIds")
            .filter_map(|id| experiments.get(id.as_str()?))
            .map(|rule| match everyone_else {
                Some(variation) if rule.feature_rollout => rule.with_rest(variation),
                _ => rule.clone(),
            })
            .collect();
        let variables: Vec<_> = list(value, "variables")
            .filter_map(|variable| {
                let default = text(variable, "defaultValue").unwrap_or_default();
                Some((
                    text(variable, "id")?.to_owned(),
                    text(variable, "key")?.to_owned(),
                    type_of(variable).cast(default),
                ))
            })
            .collect();
        Some(Flag {
            key: text(value, "key")?.to_owned(),
            experiments: rules,
            rollout,
            defaults: variables
                .iter()
                .map(|(_, key, value)| (key.clone(), value.clone()))
                .collect(),
            variables,
        })
    }
}

/// Of 10,000 users, those a prediction service decides.
fn cmab(value: &Value) -> Option<u32> {
    let cmab = value.get("cmab").filter(|cmab| cmab.is_object());
    if cmab.is_none() && text(value, "type") != Some("cmab") {
        return None;
    }
    let share = cmab
        .and_then(|cmab| cmab.get("trafficAllocation"))
        .and_then(Value::as_u64)
        .unwrap_or(0);
    Some(u32::try_from(share).unwrap_or(10_000))
}

impl Rule {
    /// A feature rollout gives everybody outside its traffic what the flag's last delivery rule gives.
    fn with_rest(&self, variation: &Variation) -> Arc<Self> {
        let mut rule = self.clone();
        rule.allocation.push(Share {
            end: 10_000,
            variation: Some(rule.variations.len()),
        });
        rule.variations.push(variation.clone());
        Arc::new(rule)
    }
}
