//! Numbers, times and JSON as people read them, and the small pieces of markup that pages share.

use askama::Template;
use serde_json::Value;

use crate::clock::Millis;

/// A number with its thousands apart.
pub(super) fn count(number: &u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How long something takes or lasts.
pub(super) fn span(ms: &Millis) -> String {
    let ms = (*ms).max(0);
    let seconds = ms / 1000;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{}.{} s", seconds, ms % 1000 / 100),
        10_000..60_000 => format!("{seconds} s"),
        60_000..3_600_000 => format!("{} min", seconds / 60),
        3_600_000..172_800_000 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Bytes.
pub(super) fn bytes(bytes: &u64) -> String {
    match *bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KB", bytes / 1_024),
        _ => format!("{} MB", bytes / 1_048_576),
    }
}

/// JSON over several lines.
pub(super) fn pretty(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => serde_json::to_string_pretty(value).unwrap_or_default(),
    }
}

/// A text that may be JSON, over several lines if it is.
pub(super) fn pretty_text(text: &str) -> String {
    serde_json::from_str::<Value>(text).map_or_else(|_| text.to_owned(), |value| pretty(&value))
}

/// A short value for one table cell.
pub(super) fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    if text.chars().count() <= 80 {
        return text;
    }
    let start: String = text.chars().take(79).collect();
    format!("{start}…")
}

/// A moment: exact in UTC, and how long ago for the eye.
#[derive(Template)]
#[template(
    source = r#"<time datetime="{{ iso }}" title="{{ exact }} UTC">{{ ago }}</time>"#,
    ext = "html"
)]
pub(super) struct When {
    iso: String,
    exact: String,
    ago: String,
}

impl When {
    /// From the API's text.
    pub(super) fn iso(text: &str, now_ms: Millis) -> Self {
        let ago = text
            .parse::<jiff::Timestamp>()
            .map_or_else(|_| text.to_owned(), |at| ago(at.as_millisecond(), now_ms));
        Self {
            exact: text.replace('T', " ").trim_end_matches('Z').to_owned(),
            iso: text.to_owned(),
            ago,
        }
    }

    /// From Unix milliseconds.
    pub(super) fn ms(at_ms: Millis, now_ms: Millis) -> Self {
        let at = jiff::Timestamp::from_millisecond(at_ms).unwrap_or_default();
        Self::iso(&format!("{at:.3}"), now_ms)
    }

    /// The moment itself, where how long ago is not enough: for who compares logs.
    pub(super) fn exact(&self) -> String {
        format!("{} UTC", self.exact)
    }
}

/// A sentence of the API for people: begins with a capital if it begins with a word, what stands in backquotes is set as code, and times read as
/// elsewhere.
#[derive(Template)]
#[template(
    source = r"{% for (code, text) in parts %}{% if *code %}<code>{{ text }}</code>{% else %}{{ text }}{% endif %}{% endfor %}",
    ext = "html"
)]
pub(super) struct Prose {
    parts: Vec<(bool, String)>,
}

/// See [`Prose`].
pub(super) fn prose(text: &str) -> Prose {
    let mut pieces: Vec<&str> = text.split('`').collect();
    // A backquote without its other is one that was meant.
    if pieces.len().is_multiple_of(2) {
        pieces = vec![text];
    }
    let mut parts: Vec<(bool, String)> = pieces
        .iter()
        .enumerate()
        .map(|(place, piece)| match place % 2 {
            0 => (false, with_times(piece)),
            _ => (true, (*piece).to_owned()),
        })
        .filter(|(_, piece)| !piece.is_empty())
        .collect();
    // A path or a name at the beginning stays as it is.
    if let Some((false, first)) = parts.first_mut()
        && first.split(' ').next().is_some_and(|word| {
            word.chars()
                .all(|c| c.is_ascii_alphabetic() || "',;:".contains(c))
        })
        && let Some(letter) = first.get_mut(..1)
    {
        letter.make_ascii_uppercase();
    }
    Prose { parts }
}

fn with_times(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_time =
            bare.len() >= 20 && bare.ends_with('Z') && bare.parse::<jiff::Timestamp>().is_ok();
        if is_time {
            let shown = format!("{} UTC", bare.replace('T', " ").trim_end_matches('Z'));
            word.replace(bare, &shown)
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Hour and minute of a moment, for a short while back.
pub(super) fn minute(at_ms: Millis) -> String {
    let at = jiff::Timestamp::from_millisecond(at_ms).unwrap_or_default();
    at.strftime("%H:%M UTC").to_string()
}

fn ago(at_ms: Millis, now_ms: Millis) -> String {
    let ms = now_ms - at_ms;
    match ms {
        ..-2_000 => format!("in {}", span(&-ms)),
        -2_000..2_000 => "just now".to_owned(),
        _ => format!("{} ago", span(&ms)),
    }
}

/// The exact time of day of an API time.
pub(super) fn clock_time(iso: &str) -> String {
    iso.split_once('T')
        .map_or(iso, |(_, time)| time.trim_end_matches('Z'))
        .to_owned()
}

/// A word with a colour; the word alone says everything.
#[derive(Template)]
#[template(
    source = r#"<span class="pill {{ tone }}">{{ text }}</span>"#,
    ext = "html"
)]
pub(super) struct Pill {
    tone: &'static str,
    text: String,
}

impl Pill {
    pub(super) fn new(tone: &'static str, text: impl Into<String>) -> Self {
        Self {
            tone,
            text: text.into(),
        }
    }

    /// How a delivery ended, or a vendor's answer was read.
    pub(super) fn outcome(word: &str) -> Self {
        let (tone, text) = match word {
            "delivered" => ("good", "delivered"),
            "done" | "ok" => ("good", word),
            "dead" | "reject" => ("bad", if word == "reject" { "refused" } else { "dead" }),
            "pause" => ("bad", "paused it"),
            "retry" => ("warn", "will retry"),
            "bisect" => ("warn", "split and retried"),
            "pending" | "running" => ("info", word),
            "not_wanted" => ("quiet", "not wanted"),
            word => ("quiet", word),
        };
        Self::new(tone, text)
    }

    /// What a pipeline does.
    pub(super) fn state(status: &super::views::Status) -> Self {
        let by_admin = status.reason.as_deref() == Some("admin");
        let tone = match status.state.as_str() {
            "running" => "good",
            "paused" if by_admin => "warn",
            "paused" | "failed" => "bad",
            "waiting" => "warn",
            _ => "quiet",
        };
        Self::new(tone, status.state.clone())
    }

    /// An HTTP status.
    pub(super) fn status(status: Option<u16>, error: Option<&str>) -> Self {
        match status {
            Some(code) => {
                let tone = match code {
                    200..300 => "good",
                    429 | 500.. => "warn",
                    _ => "bad",
                };
                Self::new(tone, code.to_string())
            }
            None => Self::new("warn", error.unwrap_or("no answer").to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use askama::Template as _;

    use super::{When, count, minute, prose, span};

    #[test]
    fn sentences_read_well_and_hold_no_markup_of_others() {
        let shown = |text: &str| prose(text).render().unwrap();
        assert_eq!(
            shown("`<b>` is no name; the vendor took it at (2026-11-20T14:03:27.412Z)"),
            "<code>&#60;b&#62;</code> is no name; the vendor took it at (2026-11-20 14:03:27.412 UTC)"
        );
        assert_eq!(shown("it's one ` only"), "It&#39;s one ` only");
        assert_eq!(shown(""), "");
        assert_eq!(shown("events.0.revenue: no"), "events.0.revenue: no");
        assert_eq!(minute(1_795_183_407_412), "14:03 UTC");
    }

    #[test]
    fn numbers_and_times_read_well() {
        assert_eq!(count(&0), "0");
        assert_eq!(count(&999), "999");
        assert_eq!(count(&1_234_567), "1,234,567");
        assert_eq!(span(&0), "0 ms");
        assert_eq!(span(&1_234), "1.2 s");
        assert_eq!(span(&7_300_000), "2 h");
        let when = When::ms(1_795_183_407_412, 1_795_183_467_412)
            .render()
            .unwrap();
        let soon = When::ms(10_000, 5_500).render().unwrap();
        assert!(soon.contains(">in 4.5 s<"), "{soon}");
        assert_eq!(
            when,
            r#"<time datetime="2026-11-20T14:03:27.412Z" title="2026-11-20 14:03:27.412 UTC">1 min ago</time>"#
        );
    }
}
