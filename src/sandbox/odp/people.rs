//! ODP's profiles: who is known under which identifiers, and the newest variation of each flag. Pure.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use crate::clock::Millis;

/// Profiles kept; more are counted, not remembered.
const PROFILES_MAX: usize = 500_000;

/// One person.
#[derive(Debug, Default)]
pub(super) struct Profile {
    /// Values by identifier name; the latest of each.
    pub(super) identifiers: BTreeMap<String, String>,
    pub(super) attributes: Map<String, Value>,
    /// Member or not, and since when in Unix seconds.
    pub(super) segments: BTreeMap<String, (bool, i64)>,
    /// Variation by flag, and the time of the event that said so.
    pub(super) flags: BTreeMap<String, (Millis, Value)>,
}

/// All profiles.
#[derive(Debug, Default)]
pub(super) struct People {
    profiles: BTreeMap<u64, Profile>,
    index: HashMap<(String, String), u64>,
    next: u64,
    pub(super) not_remembered: u64,
}

/// The identifier a bare user id is taken for, as the SDKs do.
pub(super) fn identifier_of(user: &str) -> &'static str {
    if user.starts_with("vuid_") {
        "vuid"
    } else {
        "fs_user_id"
    }
}

/// `fs-user-id` and other spellings as one.
fn normal(name: &str) -> String {
    let name = name.to_lowercase();
    if name == "fs-user-id" {
        return "fs_user_id".to_owned();
    }
    name
}

impl People {
    pub(super) fn len(&self) -> usize {
        self.profiles.len()
    }

    /// By one identifier.
    pub(super) fn find(&self, name: &str, value: &str) -> Option<&Profile> {
        let id = self.index.get(&(normal(name), value.to_owned()))?;
        self.profiles.get(id)
    }

    /// By whatever a tester types.
    pub(super) fn find_any(&self, user: &str) -> Option<&Profile> {
        ["fs_user_id", "vuid", "email", "customer_id"]
            .iter()
            .find_map(|name| self.find(name, user))
    }

    /// The profile of these identifiers: made when new, joined when they were several. None when there are too many
    /// profiles or no identifier.
    pub(super) fn resolve(
        &mut self,
        identifiers: impl Iterator<Item = (String, String)>,
    ) -> Option<&mut Profile> {
        let keys: Vec<(String, String)> = identifiers
            .map(|(name, value)| (normal(&name), value))
            .collect();
        if keys.is_empty() {
            return None;
        }
        let mut known: Vec<u64> = keys
            .iter()
            .filter_map(|key| self.index.get(key).copied())
            .collect();
        known.sort_unstable();
        known.dedup();
        let id = match known.split_first() {
            Some((first, others)) => {
                for other in others {
                    self.join(*first, *other);
                }
                *first
            }
            None if self.profiles.len() >= PROFILES_MAX => {
                self.not_remembered += 1;
                return None;
            }
            None => {
                self.next += 1;
                self.profiles.insert(self.next, Profile::default());
                self.next
            }
        };
        let profile = self.profiles.get_mut(&id)?;
        for (name, value) in keys {
            profile.identifiers.insert(name.clone(), value.clone());
            self.index.insert((name, value), id);
        }
        Some(profile)
    }

    fn join(&mut self, into: u64, from: u64) {
        let Some(gone) = self.profiles.remove(&from) else {
            return;
        };
        for owner in self.index.values_mut() {
            if *owner == from {
                *owner = into;
            }
        }
        if let Some(profile) = self.profiles.get_mut(&into) {
            profile.identifiers.extend(gone.identifiers);
            profile.attributes.extend(gone.attributes);
            profile.segments.extend(gone.segments);
            for (flag, newest) in gone.flags {
                note(&mut profile.flags, flag, newest);
            }
        }
    }

    pub(super) fn shown(&self, user: Option<&str>, limit: usize) -> Vec<Value> {
        let show = |profile: &Profile| {
            let member = |(name, (is_in, _)): (&String, &(bool, i64))| is_in.then(|| name.clone());
            let segments: Vec<String> = profile.segments.iter().filter_map(member).collect();
            json!({
                "identifiers": profile.identifiers, "attributes": profile.attributes, "segments": segments,
            })
        };
        match user {
            Some(user) => self.find_any(user).map(show).into_iter().collect(),
            None => self.profiles.values().take(limit).map(show).collect(),
        }
    }

    pub(super) fn flags(&self, user: Option<&str>) -> impl Iterator<Item = (String, Value)> {
        let asked = user.map(|user| (user.to_owned(), self.find_any(user)));
        let all = asked.is_none();
        let one = asked.and_then(|(user, profile)| Some((user, flags(profile?))));
        let every = self
            .profiles
            .values()
            .filter(move |_| all)
            .map(|profile| (name(profile), flags(profile)));
        one.into_iter().chain(every)
    }
}

fn name(profile: &Profile) -> String {
    ["fs_user_id", "vuid", "email"]
        .iter()
        .find_map(|name| profile.identifiers.get(*name))
        .or_else(|| profile.identifiers.values().next())
        .cloned()
        .unwrap_or_default()
}

fn flags(profile: &Profile) -> Value {
    let flag = |(flag, (_, value)): (&String, &(Millis, Value))| (flag.clone(), value.clone());
    Value::Object(profile.flags.iter().map(flag).collect())
}

/// Keeps the newer; of two of the same time, the later to come.
pub(super) fn note(
    flags: &mut BTreeMap<String, (Millis, Value)>,
    flag: String,
    newest: (Millis, Value),
) {
    match flags.get(&flag) {
        Some((at_ms, _)) if *at_ms > newest.0 => {}
        _ => {
            flags.insert(flag, newest);
        }
    }
}
