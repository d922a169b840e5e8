//! What flags are called where a vendor takes no free names: `checkout_redesign` for `Checkout redesign`.
//!
//! The name of each decision is stamped when it is accepted; here the same rule tells an installer beforehand
//! which fields to make.

use crate::blueprint::FieldFault;
use crate::event::decision::slug;

/// The name of each flag of one datafile, in the given order.
#[must_use]
pub fn names(keys: &[String]) -> Vec<(&str, String)> {
    let names = slug::among(keys.iter().map(String::as_str));
    keys.iter()
        .filter_map(|key| Some((key.as_str(), names.get(key)?.clone())))
        .collect()
}

/// Says of each flag whose name another flag would have too what it is called instead.
#[must_use]
pub fn collisions(keys: &[String], field_of: impl Fn(&str) -> String) -> Vec<FieldFault> {
    names(keys)
        .into_iter()
        .filter(|(key, name)| *name != slug::plain(key))
        .map(|(key, name)| FieldFault {
            field: "config".to_owned(),
            code: "name_collision".to_owned(),
            message: format!(
                "the flag `{key}` would share the field `{}` with another flag: it is written to `{}`",
                field_of(&slug::plain(key)),
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
