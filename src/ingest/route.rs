//! Which path means what. Matched by hand: trailing and doubled slashes must not redirect (SDKs take a
//! redirect for success), and a wrong path or method has to be answered as a problem.

use axum::http::Method;

use crate::event::Kind;

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// One event; none: its own `type` says which kind.
    Event(Option<Kind>),
    /// `{"batch": […]}`.
    Batch,
    /// Flag decisions, alone or several.
    Decision,
    /// Flags to be decided here.
    Decide,
    /// What analytics-next tells about itself; dropped.
    Metrics,
    /// What analytics-next loads at start, for this write key.
    Settings(&'a str),
    /// Optimizely tells this integration that its datafile changed.
    OptimizelyWebhook(&'a str),
    /// Announced, but not there yet.
    NotYet,
    /// Nothing of ours.
    Unknown,
}

impl<'a> Route<'a> {
    /// Reads a path.
    pub(super) fn of(path: &'a str) -> Self {
        let path = path.trim_matches('/');
        if let Some(call) = path.strip_prefix("v1/") {
            return Self::segment(call);
        }
        // Jitsu: `/api/s/{type}` from browsers, `/api/s/s2s/{type}` from servers.
        if let Some(call) = path.strip_prefix("api/s/") {
            return match call.strip_prefix("s2s/").unwrap_or(call) {
                "event" => Self::Event(None),
                "batch" => Self::Batch,
                word => Kind::posted(word).map_or(Self::Unknown, |kind| Self::Event(Some(kind))),
            };
        }
        Self::Unknown
    }

    fn segment(call: &'a str) -> Self {
        let kind = match call {
            "batch" | "b" | "import" => return Self::Batch,
            "m" => return Self::Metrics,
            "decision" => return Self::Decision,
            "decide" => return Self::Decide,
            "t" | "track" => Kind::Track,
            "i" | "identify" => Kind::Identify,
            "p" | "page" => Kind::Page,
            "s" | "screen" => Kind::Screen,
            "g" | "group" => Kind::Group,
            "a" | "alias" => Kind::Alias,
            _ => {
                return Self::with_name(call);
            }
        };
        Self::Event(Some(kind))
    }

    fn with_name(call: &'a str) -> Self {
        let one = |name: &'a str| (!name.is_empty() && !name.contains('/')).then_some(name);
        if let Some(name) = call
            .strip_prefix("projects/")
            .and_then(|rest| rest.strip_suffix("/settings"))
            .and_then(one)
        {
            return Self::Settings(name);
        }
        if let Some(name) = call.strip_prefix("webhooks/optimizely/").and_then(one) {
            return Self::OptimizelyWebhook(name);
        }
        match call.strip_prefix("webhooks/lytics/").and_then(one) {
            Some(_) => Self::NotYet,
            None => Self::Unknown,
        }
    }

    /// The method it takes; none when there is nothing there.
    pub(super) fn method(&self) -> Option<Method> {
        match self {
            Self::Unknown => None,
            Self::Settings(_) => Some(Method::GET),
            _ => Some(Method::POST),
        }
    }

    /// Its place among [`Route::LABELS`].
    pub(super) fn index(&self) -> usize {
        match self {
            Self::Event(_) => 0,
            Self::Batch => 1,
            Self::Metrics => 2,
            Self::Settings(_) => 3,
            Self::OptimizelyWebhook(_) => 4,
            Self::NotYet => 5,
            Self::Unknown => 6,
            Self::Decision => 7,
            Self::Decide => 8,
        }
    }

    /// Names of the routes in metrics.
    pub(super) const LABELS: [&'static str; 9] = [
        "event",
        "batch",
        "metrics",
        "settings",
        "webhook",
        "not_available_yet",
        "unknown",
        "decision",
        "decide",
    ];
}
