//! Versions as the SDKs compare them: by the parts the condition names, so that "2" equals "2.1.3".

use std::cmp::Ordering;

/// How the user's version stands to the condition's; none when one of them is no version.
pub(super) fn compare(condition: &str, user: &str) -> Option<Ordering> {
    let wanted = Version::read(condition)?;
    let given = Version::read(user)?;
    for (index, part) in wanted.parts.iter().enumerate() {
        let Some(own) = given.parts.get(index) else {
            return Some(if wanted.suffix.is_some() {
                Ordering::Greater
            } else {
                Ordering::Less
            });
        };
        let order = match (number(own), number(part)) {
            (Some(own), Some(part)) => own.cmp(&part),
            (Some(_), None) => Ordering::Equal,
            (None, _) => match own.cmp(part) {
                // A release is newer than its own pre-release.
                Ordering::Less if wanted.is_pre() && !given.is_pre() => Ordering::Greater,
                Ordering::Greater if !wanted.is_pre() && given.is_pre() => Ordering::Less,
                order => order,
            },
        };
        if order.is_ne() {
            return Some(order);
        }
    }
    Some(if given.is_pre() && !wanted.is_pre() {
        Ordering::Less
    } else {
        Ordering::Equal
    })
}

/// What follows the numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Suffix {
    Pre,
    Build,
}

struct Version<'a> {
    parts: Vec<&'a str>,
    suffix: Option<Suffix>,
}

impl<'a> Version<'a> {
    fn read(text: &'a str) -> Option<Self> {
        if text.contains(char::is_whitespace) {
            return None;
        }
        let (head, tail, suffix) = match text.find(['-', '+']) {
            None => (text, "", None),
            Some(at) => {
                let (head, rest) = text.split_at(at);
                let suffix = if rest.starts_with('-') {
                    Suffix::Pre
                } else {
                    Suffix::Build
                };
                (head, rest.get(1..).unwrap_or_default(), Some(suffix))
            }
        };
        let mut parts: Vec<_> = head.split('.').collect();
        if parts.len() > 3 || parts.iter().any(|part| number(part).is_none()) {
            return None;
        }
        if !tail.is_empty() {
            parts.push(tail);
        }
        Some(Self { parts, suffix })
    }

    fn is_pre(&self) -> bool {
        self.suffix == Some(Suffix::Pre)
    }
}

/// A number of any length, comparable: fewer digits are less.
fn number(part: &str) -> Option<(usize, &str)> {
    let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let bare = part.trim_start_matches('0');
    digits.then_some((bare.len(), bare))
}
