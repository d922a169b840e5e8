//! A flag's name for vendors that take small letters, digits and `_` only (a Pendo field, a Brevo attribute).
//!
//! Two flags must never share one: their values would overwrite each other. Stamped at acceptance, so that all
//! integrations and all replays use the same name.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

/// The plain slug: small ASCII letters and digits, every run of anything else is one `_`.
#[must_use]
pub fn plain(flag_key: &str) -> String {
    let mut slug = String::with_capacity(flag_key.len());
    let mut gap = false;
    for c in flag_key.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
            gap = false;
        } else if !gap {
            slug.push('_');
            gap = true;
        }
    }
    slug
}

/// The slug that is this flag's whatever other flags there are.
fn marked(flag_key: &str, plain: &str) -> String {
    let hash = Sha256::digest(flag_key.as_bytes());
    format!("{plain}_{:02x}{:02x}", hash[0], hash[1])
}

/// The slug of a flag when nothing is known about other flags: a key that slugging changes may meet another
/// that becomes the same, so it is marked.
#[must_use]
pub fn alone(flag_key: &str) -> String {
    let slug = plain(flag_key);
    if slug == flag_key {
        slug
    } else {
        marked(flag_key, &slug)
    }
}

/// The slugs of all flags of a datafile: a slug that several flags would have stays with the one whose key it
/// is; the others are marked.
#[must_use]
pub fn among<'a>(flag_keys: impl IntoIterator<Item = &'a str>) -> HashMap<String, String> {
    let mut by_slug: HashMap<String, Vec<&str>> = HashMap::new();
    for flag_key in flag_keys {
        let same = by_slug.entry(plain(flag_key)).or_default();
        if !same.contains(&flag_key) {
            same.push(flag_key);
        }
    }
    let mut slugs = HashMap::new();
    for (slug, flag_keys) in by_slug {
        let shared = flag_keys.len() > 1;
        for flag_key in flag_keys {
            let own = if shared && slug != flag_key {
                marked(flag_key, &slug)
            } else {
                slug.clone()
            };
            slugs.insert(flag_key.to_owned(), own);
        }
    }
    slugs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_anything_else_become_one_underscore() {
        for (key, slug) in [
            ("checkout_redesign", "checkout_redesign"),
            ("Checkout - Redesign", "checkout_redesign"),
            ("a__b", "a_b"),
            ("ключ", "_"),
        ] {
            assert_eq!(plain(key), slug, "{key}");
        }
    }

    #[test]
    fn no_two_flags_share_one() {
        let slugs = among(["new-nav", "new_nav", "New Nav", "dark-mode", "new-nav"]);
        assert_eq!(slugs["new_nav"], "new_nav");
        assert_eq!(slugs["dark-mode"], "dark_mode");
        assert_eq!(slugs.len(), 4);
        let mut all: Vec<_> = slugs.values().collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4);
        // printf new-nav | sha256sum
        assert_eq!(slugs["new-nav"], "new_nav_3d75");
        assert_eq!(alone("new-nav"), slugs["new-nav"]);
        assert_eq!(alone("new_nav"), "new_nav");
    }
}
