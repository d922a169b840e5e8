//! What flags are called where a vendor takes no free names: `checkout_redesign` for `Checkout redesign`.
//!
//! The name of each decision is stamped when it is accepted; here the same rule tells an installer beforehand
//! which fields to make.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::blueprint::FieldFault;

/// A flag's key as small letters, digits and `_`.
#[must_use]
pub fn slug(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for letter in key.chars() {
        if letter.is_ascii_alphanumeric() {
            out.push(letter.to_ascii_lowercase());
        } else if !out.ends_with('_') {
            out.push('_');
        }
    }
    out
}

/// The name of each flag of one datafile, in the given order. Of flags that would share a name, the one whose key
/// is the name keeps it; the others get a tail.
#[must_use]
pub fn names(keys: &[String]) -> Vec<(&str, String)> {
    let mut sharing: BTreeMap<String, usize> = BTreeMap::new();
    for key in keys {
        *sharing.entry(slug(key)).or_default() += 1;
    }
    keys.iter()
        .map(|key| {
            let slug = slug(key);
            let shared = sharing.get(&slug).is_some_and(|count| *count > 1);
            let name = if shared && slug != *key {
                format!("{slug}_{}", tail(key))
            } else {
                slug
            };
            (key.as_str(), name)
        })
        .collect()
}

fn tail(key: &str) -> String {
    Sha256::digest(key.as_bytes())
        .iter()
        .take(2)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Says of each flag whose name another flag would have too what it is called instead.
#[must_use]
pub fn collisions(keys: &[String], field_of: impl Fn(&str) -> String) -> Vec<FieldFault> {
    names(keys)
        .into_iter()
        .filter(|(key, name)| *name != slug(key))
        .map(|(key, name)| FieldFault {
            field: "config".to_owned(),
            code: "name_collision".to_owned(),
            message: format!(
                "the flag `{key}` would share the field `{}` with another flag: it is written to `{}`",
                field_of(&slug(key)),
                field_of(&name)
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_differ_only_in_signs_get_names_of_their_own() {
        let keys: Vec<String> = ["a_b", "a-b", "A B", "c--d", "é"].map(str::to_owned).into();
        let names: Vec<String> = names(&keys).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names[0], "a_b");
        assert!(names[1].starts_with("a_b_") && names[1].len() == 8);
        assert!(names[2].starts_with("a_b_") && names[2] != names[1]);
        assert_eq!(names[3], "c_d");
        let said = collisions(&keys, |name| format!("optimizely_{name}"));
        assert_eq!(said.len(), 2);
        assert!(said[0].message.contains("`optimizely_a_b`") && said[0].message.contains("`a-b`"));
    }
}
