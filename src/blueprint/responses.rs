//! What a vendor's reply means: the blueprint's own rules first, then the common ones.

use serde_json::Value;

use super::eval::{Scene, eval};
use super::expr::Expr;
use super::{Reply, Tables, Verdict};

/// One rule of `responses`.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// All must hold.
    pub(crate) when: Vec<Expr>,
    pub(crate) then: Outcome,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Delivered,
    Retry,
    Bisect,
    Split,
    Reject,
    Pause,
}

impl Outcome {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "delivered" => Self::Delivered,
            "retry" => Self::Retry,
            "bisect" => Self::Bisect,
            "split" => Self::Split,
            "reject" => Self::Reject,
            "pause" => Self::Pause,
            _ => return None,
        })
    }
}

/// Reads a reply. `batched`: the request may carry several items, so that halving it can help.
pub(crate) fn verdict(rules: &[Rule], batched: bool, reply: &Reply<'_>) -> Verdict {
    let retry = Verdict::Retry {
        after: reply.retry_after,
    };
    let pause = Verdict::Pause {
        reason: pause_reason(reply.status),
    };
    let halves = |how: Verdict| if batched { how } else { Verdict::Reject };
    match named(rules, reply) {
        Some(Outcome::Delivered) => return Verdict::Delivered,
        Some(Outcome::Retry) => return retry,
        Some(Outcome::Bisect) => return halves(Verdict::Bisect),
        Some(Outcome::Split) => return halves(Verdict::Split),
        Some(Outcome::Reject) => return Verdict::Reject,
        Some(Outcome::Pause) => return pause,
        None => {}
    }
    match reply.status {
        200..=299 => Verdict::Delivered,
        // The body is at fault, so one of its items is: find it.
        400 | 422 => halves(Verdict::Bisect),
        413 => halves(Verdict::Split),
        408 | 425 | 429 | 500..=599 => retry,
        _ => pause,
    }
}

fn named(rules: &[Rule], reply: &Reply<'_>) -> Option<Outcome> {
    if rules.is_empty() {
        return None;
    }
    let body: Value = serde_json::from_slice(reply.body).unwrap_or(Value::Null);
    let tables = Tables::default();
    let scene = Scene::of_reply(reply.status, &body, &tables);
    rules
        .iter()
        .find(|rule| {
            rule.when
                .iter()
                .all(|test| eval(test, scene.cx()).is_true())
        })
        .map(|rule| rule.then)
}

fn pause_reason(status: u16) -> &'static str {
    match status {
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        300..=399 => "redirect",
        _ => "unexpected_status",
    }
}
