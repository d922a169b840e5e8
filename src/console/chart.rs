//! Small charts as inline SVG: numbers in, markup out through a template that escapes its texts.

use askama::Template;

use super::format::count;

/// Height of the drawing.
const HEIGHT: u64 = 96;

/// Width of one bar with its gap.
const STEP: u64 = 10;

/// Bars over time, the newest at the right.
#[derive(Template)]
#[template(path = "bars.html")]
pub(super) struct Bars {
    label: String,
    width: u64,
    height: u64,
    bars: Vec<Bar>,
    highest: String,
}

struct Bar {
    x: u64,
    y: u64,
    height: u64,
    title: String,
}

impl Bars {
    /// One bar per minute.
    /// `when` says over what time, as in "in the last hour".
    pub(super) fn by_minute(label: &str, when: &str, minutes: &[u64]) -> Self {
        let highest = minutes.iter().copied().max().unwrap_or(0);
        let total: u64 = minutes.iter().sum();
        let bars = (0u64..)
            .zip(minutes)
            .map(|(place, number)| {
                // A bar that is there is seen, however small.
                let height = if *number == 0 {
                    0
                } else {
                    (number.saturating_mul(HEIGHT) / highest.max(1)).max(2)
                };
                let age = minutes.len() as u64 - 1 - place;
                Bar {
                    x: place * STEP + 1,
                    y: HEIGHT - height,
                    height,
                    title: match age {
                        0 => format!("{} in this minute", count(number)),
                        age => format!("{} {age} min ago", count(number)),
                    },
                }
            })
            .collect();
        Self {
            label: format!(
                "{label}: {} {when}, at most {} a minute",
                count(&total),
                count(&highest)
            ),
            width: minutes.len() as u64 * STEP,
            height: HEIGHT,
            bars,
            highest: count(&highest),
        }
    }
}
