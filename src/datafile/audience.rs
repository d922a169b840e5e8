//! Audiences: conditions over a user's attributes in three-valued logic. Unknown stays unknown under `not`, and only
//! what is certainly true lets a user in.

use serde_json::{Map, Value};

use super::semver;

/// Numbers beyond 2^53 are not compared: JavaScript could not hold them exactly.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A tree of conditions.
#[derive(Debug, Clone)]
pub(super) enum Tree {
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    /// Another audience, by its place in the datafile.
    Audience(usize),
    /// The user is in this segment.
    Segment(String),
    Attribute {
        name: String,
        test: Test,
    },
    /// Never known.
    Unknown,
}

/// What is asked of an attribute.
#[derive(Debug, Clone)]
pub(super) enum Test {
    Exists,
    ExactText(String),
    ExactBool(bool),
    ExactNumber(f64),
    Compare(Order, f64),
    Substring(String),
    Version(Order, String),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// What is known about a user.
#[derive(Debug, Clone, Copy)]
pub struct Traits<'a> {
    /// Attributes, as the app gave them.
    pub attributes: &'a Map<String, Value>,
    /// Segments the user is certainly in.
    pub segments: &'a [String],
}

impl Tree {
    /// Reads a tree; `leaf` reads what is no list.
    pub(super) fn read(value: &Value, leaf: &mut dyn FnMut(&Value) -> Self) -> Self {
        let Value::Array(items) = value else {
            return leaf(value);
        };
        let (operator, operands) = match items.split_first() {
            Some((Value::String(word), rest)) if matches!(&**word, "and" | "or" | "not") => {
                (word.as_str(), rest)
            }
            _ => ("or", items.as_slice()),
        };
        if operator == "not" {
            return operands.first().map_or(Self::Unknown, |operand| {
                Self::Not(Box::new(Self::read(operand, leaf)))
            });
        }
        let trees = operands
            .iter()
            .map(|operand| Self::read(operand, leaf))
            .collect();
        if operator == "and" {
            Self::And(trees)
        } else {
            Self::Or(trees)
        }
    }

    /// Reads a condition of an audience.
    pub(super) fn condition(value: &Value) -> Self {
        Self::try_condition(value).unwrap_or(Self::Unknown)
    }

    fn try_condition(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key)?.as_str();
        let wanted = value.get("value");
        let matching = match value.get("match") {
            None | Some(Value::Null) => None,
            Some(word) => Some(word.as_str()?),
        };
        match text("type")? {
            "third_party_dimension" => match matching {
                None | Some("qualified") => Some(Self::Segment(wanted?.as_str()?.to_owned())),
                Some(_) => None,
            },
            "custom_attribute" => Some(Self::Attribute {
                name: text("name")?.to_owned(),
                test: Test::read(matching.unwrap_or("exact"), wanted)?,
            }),
            _ => None,
        }
    }

    /// Whether it holds of a user; none: unknown. `audiences`: what [`Tree::Audience`] points into.
    pub(super) fn holds(&self, audiences: &[Self], user: Traits<'_>) -> Option<bool> {
        match self {
            Self::And(trees) => all(trees, true, |tree| tree.holds(audiences, user)),
            Self::Or(trees) => all(trees, false, |tree| tree.holds(audiences, user)),
            Self::Not(tree) => tree.holds(audiences, user).map(|holds| !holds),
            // An audience's own tree has conditions for leaves, so this goes one deep.
            Self::Audience(index) => audiences.get(*index)?.holds(&[], user),
            Self::Segment(name) => Some(user.segments.contains(name)),
            Self::Attribute { name, test } => test.holds(user.attributes.get(name)),
            Self::Unknown => None,
        }
    }

    /// Names of segments it asks for.
    pub(super) fn segments<'a>(&'a self, found: &mut Vec<&'a str>) {
        match self {
            Self::And(trees) | Self::Or(trees) => {
                for tree in trees {
                    tree.segments(found);
                }
            }
            Self::Not(tree) => tree.segments(found),
            Self::Segment(name) => found.push(name),
            Self::Audience(_) | Self::Attribute { .. } | Self::Unknown => {}
        }
    }
}

/// `and` (`neutral` true) or `or` (`neutral` false): one that says otherwise decides, then one that is unknown.
fn all(trees: &[Tree], neutral: bool, holds: impl Fn(&Tree) -> Option<bool>) -> Option<bool> {
    let mut known = Some(neutral);
    for tree in trees {
        match holds(tree) {
            Some(value) if value != neutral => return Some(value),
            Some(_) => {}
            None => known = None,
        }
    }
    known
}

impl Test {
    fn read(matching: &str, wanted: Option<&Value>) -> Option<Self> {
        let number = || wanted.and_then(exact_number);
        let text = || wanted.and_then(Value::as_str).map(str::to_owned);
        Some(match matching {
            "exists" => Self::Exists,
            "exact" => match wanted? {
                Value::String(text) => Self::ExactText(text.clone()),
                Value::Bool(value) => Self::ExactBool(*value),
                value => Self::ExactNumber(exact_number(value)?),
            },
            "gt" => Self::Compare(Order::Greater, number()?),
            "ge" => Self::Compare(Order::GreaterOrEqual, number()?),
            "lt" => Self::Compare(Order::Less, number()?),
            "le" => Self::Compare(Order::LessOrEqual, number()?),
            "substring" => Self::Substring(text()?),
            "semver_eq" => Self::Version(Order::Equal, text()?),
            "semver_lt" => Self::Version(Order::Less, text()?),
            "semver_le" => Self::Version(Order::LessOrEqual, text()?),
            "semver_gt" => Self::Version(Order::Greater, text()?),
            "semver_ge" => Self::Version(Order::GreaterOrEqual, text()?),
            _ => return None,
        })
    }

    fn holds(&self, given: Option<&Value>) -> Option<bool> {
        if let Self::Exists = self {
            return Some(given.is_some_and(|value| !value.is_null()));
        }
        let given = given?;
        match self {
            Self::Exists => None,
            Self::ExactText(wanted) => given.as_str().map(|given| given == wanted),
            Self::ExactBool(wanted) => given.as_bool().map(|given| given == *wanted),
            Self::ExactNumber(wanted) => exact_number(given).map(|given| given == *wanted),
            Self::Compare(order, wanted) => exact_number(given)?
                .partial_cmp(wanted)
                .map(|found| order.holds(found)),
            Self::Substring(wanted) => given.as_str().map(|given| given.contains(wanted.as_str())),
            Self::Version(order, wanted) => {
                semver::compare(wanted, given.as_str()?).map(|found| order.holds(found))
            }
        }
    }
}

/// A number within ±2^53.
fn exact_number(value: &Value) -> Option<f64> {
    let Value::Number(number) = value else {
        return None;
    };
    if let Some(whole) = number.as_i64() {
        // Compared as an integer: 2^53 + 1 would round into the range.
        if whole.unsigned_abs() > 1 << 53 {
            return None;
        }
    }
    number.as_f64().filter(|number| number.abs() <= EXACT_MAX)
}
